"""An incident: something is wrong by a rule, until it is not; who took note and what ended it are facts."""

from uuid import UUID

from domain.kernel import Aggregate, Created, Refusal, derive, event

OPENED, ACKNOWLEDGED, RESOLVED = "opened", "acknowledged", "resolved"


class IncidentAlreadyAcknowledged(Refusal):
    """An incident is acknowledged once."""


class IncidentResolved(Refusal):
    """An incident that is resolved is over: should the cause return, a new one opens."""


class Incident(Aggregate):
    """One breach of one rule by one subject: the `number`th of them. Opened, acknowledged (or not), resolved."""

    class Opened(Created):
        incident_id: UUID
        rule: str
        subject: str
        number: int
        severity: str
        summary: str
        value: float
        limit: float

    class Acknowledged(Aggregate.Event):
        incident_id: UUID
        rule: str
        subject: str
        note: str

    class Resolved(Aggregate.Event):
        closes = True
        incident_id: UUID
        rule: str
        subject: str
        reason: str

    @event(Opened)
    def __init__(
        self,
        incident_id: UUID,
        rule: str,
        subject: str,
        number: int,
        severity: str,
        summary: str,
        value: float,
        limit: float,
    ) -> None:
        self.incident_id = incident_id
        self.rule = rule
        self.subject = subject
        self.number = number
        self.severity = severity
        self.status = OPENED

    @staticmethod
    def create_id(incident_id: UUID) -> UUID:
        return incident_id

    def acknowledge(self, note: str) -> None:
        """Somebody looks after it."""
        self._open()
        if self.status == ACKNOWLEDGED:
            raise IncidentAlreadyAcknowledged(f"{self.rule} of {self.subject}")
        self._acknowledged(incident_id=self.incident_id, rule=self.rule, subject=self.subject, note=note)

    def resolve(self, reason: str) -> None:
        """It is over."""
        self._open()
        self._resolved(incident_id=self.incident_id, rule=self.rule, subject=self.subject, reason=reason)

    def _open(self) -> None:
        if self.status == RESOLVED:
            raise IncidentResolved(f"{self.rule} of {self.subject}")

    @event(Acknowledged)
    def _acknowledged(self, incident_id: UUID, rule: str, subject: str, note: str) -> None:
        self.status = ACKNOWLEDGED

    @event(Resolved)
    def _resolved(self, incident_id: UUID, rule: str, subject: str, reason: str) -> None:
        self.status = RESOLVED


def incident_id_of(rule: str, subject: str, number: int) -> UUID:
    """The same breach has the same id, whoever sees it."""
    return derive("monitoring.Incident", rule, subject, str(number))
