"""A deadline: time comes to a saga as a fact, so a replay sees it come at the same place."""

from datetime import datetime
from uuid import UUID

from domain.kernel import Aggregate, Created, EventLog, Instant, Receipt, Refusal, command, event


class DeadlineNotDue(Refusal):
    """A deadline elapses only at or after its instant."""


class DeadlineOver(Refusal):
    """A deadline elapses once."""


class Deadline(Aggregate, context="sagas"):
    """One instant a saga waits for. Its id is the token; a saga ignores a token it no longer waits for."""

    class Set(Created):
        token: UUID
        saga_id: UUID
        kind: str
        due_at: Instant

    class Elapsed(Aggregate.Event):
        closes = True
        token: UUID
        saga_id: UUID
        kind: str

    @event(Set)
    def __init__(self, token: UUID, saga_id: UUID, kind: str, due_at: datetime) -> None:
        self.token = token
        self.saga_id = saga_id
        self.kind = kind
        self.due_at = due_at
        self.elapsed = False

    @staticmethod
    def create_id(token: UUID) -> UUID:
        return token

    def elapse(self, now: datetime) -> None:
        """Record that the instant has come."""
        if self.elapsed:
            raise DeadlineOver(f"{self.kind} of {self.saga_id}")
        if now < self.due_at:
            raise DeadlineNotDue(f"due at {self.due_at.isoformat()}")
        self._elapsed(token=self.token, saga_id=self.saga_id, kind=self.kind)

    @event(Elapsed)
    def _elapsed(self, token: UUID, saga_id: UUID, kind: str) -> None:
        self.elapsed = True


class Deadlines:
    """Sets deadlines and lets them elapse."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @command
    def set_deadline(self, *, token: UUID, saga_id: UUID, kind: str, due_at: datetime) -> Receipt:
        """Wake the saga at an instant; setting the same token again changes nothing.

        Raises:
            AlreadyExists: only when two writers race for one token; the deadline is set.
        """
        if (held := self.log.find(Deadline, token)) is not None:
            return self.log.record(held)
        return self.log.record(Deadline(token=token, saga_id=saga_id, kind=kind, due_at=due_at))

    @command
    def elapse_deadline(self, *, token: UUID, now: datetime) -> Receipt:
        """Record that a deadline has come.

        Raises:
            DeadlineNotDue, DeadlineOver.
        """
        deadline = self.log.load(Deadline, token)
        deadline.elapse(now)
        return self.log.record(deadline)
