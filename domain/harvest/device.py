"""What harvesting knows of a device: its owner's policy, the one session that is open, and how its audits went."""

from uuid import UUID

from domain.kernel import Aggregate, Created, Forbidden, Refusal, derive, event

from .policy import HarvestPolicy, checked


class SessionOverlaps(Refusal):
    """A device has one open session at a time."""

    status = 409


class DeviceNotYours(Forbidden):
    """A device's policy is its owner's and the operators' to set."""


class HarvestDevice(Aggregate):
    """Sessions are numbered, so that no device chooses the id of its next one."""

    class Known(Created):
        device_id: UUID
        owner_id: UUID

    class PolicySet(Aggregate.Event):
        policy: HarvestPolicy

    class SessionOpened(Aggregate.Event):
        session_id: UUID
        number: int

    class SessionEnded(Aggregate.Event):
        session_id: UUID

    class AuditCounted(Aggregate.Event):
        """`valid_in_a_row` starts anew at 0 with an audit that failed."""

        session_id: UUID
        valid: bool
        valid_in_a_row: int

    @event(Known)
    def __init__(self, device_id: UUID, owner_id: UUID) -> None:
        self.device_id = device_id
        self.owner_id = owner_id
        self.policy = HarvestPolicy(
            min_battery_percent=0, resume_battery_percent=0, max_cpu_temp=149.0, thermal_throttle_temp=150.0,
            require_charging=False, max_cpu_percent=100.0, metered_network=True, unknown_sensor="allow",
        )  # fmt: skip
        self.sessions = 0
        self.open_session: UUID | None = None
        self.valid_in_a_row = 0
        self.audited: UUID | None = None

    @staticmethod
    def create_id(device_id: UUID) -> UUID:
        return derive("harvest.HarvestDevice", device_id)

    def set_policy(self, policy: HarvestPolicy) -> None:
        """What the device may do at most, whatever it asks for; from its next session on. Raises PolicyInvalid."""
        if checked(policy) != self.policy:
            self._policy_set(policy=policy)

    def open(self) -> UUID:
        """The id of a new session. Raises SessionOverlaps."""
        if self.open_session is not None:
            raise SessionOverlaps(f"session {self.open_session} is open")
        number = self.sessions + 1
        session_id = derive("harvest.HarvestSession", self.device_id, number)
        self._session_opened(session_id=session_id, number=number)
        return session_id

    def end(self, session_id: UUID) -> None:
        """The session is over; again changes nothing."""
        if self.open_session == session_id:
            self._session_ended(session_id=session_id)

    def count_audit(self, session_id: UUID, *, valid: bool) -> None:
        """Count the audit of a session once."""
        if self.audited != session_id:
            self._audit_counted(
                session_id=session_id, valid=valid, valid_in_a_row=self.valid_in_a_row + 1 if valid else 0
            )

    @event(PolicySet)
    def _policy_set(self, policy: HarvestPolicy) -> None:
        self.policy = policy

    @event(SessionOpened)
    def _session_opened(self, session_id: UUID, number: int) -> None:
        self.sessions = number
        self.open_session = session_id

    @event(SessionEnded)
    def _session_ended(self, session_id: UUID) -> None:
        self.open_session = None

    @event(AuditCounted)
    def _audit_counted(self, session_id: UUID, valid: bool, valid_in_a_row: int) -> None:
        self.audited = session_id
        self.valid_in_a_row = valid_in_a_row
