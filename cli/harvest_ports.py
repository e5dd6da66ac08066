"""What the marketplace asks of harvest: when a device rests by its policy, answered from the log."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from domain.harvest.device import HarvestDevice
from domain.harvest.rest import rests
from domain.harvest.session import HarvestSession
from domain.harvest.states import ACTIVE
from domain.kernel import EventLog, Fact
from domain.marketplace.contract import Contract
from domain.marketplace.evidence import Interval
from domain.marketplace.offering import Offering
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader


class RestingDevices:
    """Whether a device that lends itself may not work now."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def __call__(self, device_id: UUID) -> bool:
        device = self._log.find(HarvestDevice, HarvestDevice.create_id(device_id))
        if device is None or device.open_session is None:
            return False
        return self._log.load(HarvestSession, device.open_session).status not in ACTIVE


class RestTime:
    """When a device rested by a policy that the offering of a contract names, and its customer so accepted."""

    def __init__(self, log: EventLog, database: Database) -> None:
        self._log, self._database = log, database

    def __call__(self, contract_id: UUID, device_id: UUID, window: Interval) -> Sequence[Interval]:
        offering = self._log.load(Offering, self._log.load(Contract, contract_id).terms.offering_id)
        if not offering.harvest_policy:
            return ()
        with self._database.pool(Role.READER).connection() as connection:
            reader = LogReader(connection)
            known = [record.fact() for record in reader.of_streams([HarvestDevice.create_id(device_id)])]
            facts = [record.fact() for record in reader.of_streams(_sessions(known, window))]
        cut = [(max(begins, window.begins), min(ends, window.ends)) for begins, ends in rests(facts, window.ends)]
        return [Interval(begins, ends) for begins, ends in cut if begins < ends]


def _sessions(facts: Sequence[Fact], window: Interval) -> list[UUID]:
    """The sessions that were open in a window."""
    opened: dict[UUID, datetime] = {}
    ended: dict[UUID, datetime] = {}
    for fact in facts:
        match fact.event:
            case HarvestDevice.SessionOpened(session_id=session_id):
                opened[session_id] = fact.recorded_at
            case HarvestDevice.SessionEnded(session_id=session_id):
                ended[session_id] = fact.recorded_at
    return [one for one, at in opened.items() if at < window.ends and ended.get(one, window.ends) > window.begins]
