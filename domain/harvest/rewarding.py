"""The part of the harvest service that judges audits, tells what was earned, and finds what the other part needs."""

from uuid import UUID

from domain.kernel import EventLog, Receipt, command

from .contribution import HarvestSessionUnknown
from .device import HarvestDevice
from .session import HarvestSession


class Rewarding:
    """Commands over sessions that are there already."""

    log: EventLog

    @command
    def answer_audit(self, *, session_id: UUID, device_id: UUID, answer: str) -> Receipt:
        """The device's answer to its known job. Refusals: HarvestSessionUnknown, AuditUnknown."""
        session = self.session_of(session_id, device_id)
        session.give_answer(answer)
        return self.log.record(session)

    @command
    def judge_audit(self, *, session_id: UUID) -> Receipt:
        """Decide on a session's audit, and count it for its device; again changes nothing."""
        session = self.get_session(session_id=session_id)
        valid = session.judge()
        device = self.log.load(HarvestDevice, HarvestDevice.create_id(session.device_id))
        if session.job is not None:
            device.count_audit(session_id, valid=valid)
        return self.log.record(session, device)

    @command
    def mark_rewarded(self, *, session_id: UUID, claim_id: UUID | None, grains: int) -> Receipt:
        """What a session has earned is claimed; again changes nothing."""
        session = self.get_session(session_id=session_id)
        session.reward(claim_id, grains)
        return self.log.record(session)

    def get_session(self, *, session_id: UUID) -> HarvestSession:
        """A session as the log has it. Raises HarvestSessionUnknown."""
        found = self.log.find(HarvestSession, session_id)
        if found is None:
            raise HarvestSessionUnknown(f"session {session_id}")
        return found

    def session_of(self, session_id: UUID, device_id: UUID) -> HarvestSession:
        """A session of this device. Raises HarvestSessionUnknown."""
        session = self.get_session(session_id=session_id)
        if session.device_id != device_id:
            raise HarvestSessionUnknown(f"session {session_id} of device {device_id}")
        return session
