"""The state of a process of several steps: what was done, what is tried again, what is taken back.

What the steps mean is its plan's to say (plan.py).
"""

from datetime import datetime
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, Refusal, derive, event

RUNNING, COMPENSATING = "running", "compensating"
COMPLETED, COMPENSATED, PARKED = "completed", "compensated", "parked"
ENDED = frozenset({COMPLETED, COMPENSATED})
RETRY, COMPENSATE, SKIP, ABANDON = "retry", "compensate", "skip", "abandon"


class ProcessNotParked(Refusal):
    """Only a parked process waits for an operator."""


class ActionUnknown(Refusal):
    """An operator retries, compensates or abandons a parked process, or skips a step."""


class NothingToSkip(Refusal):
    """Only a step that cannot be taken back is skipped, and what was done before it taken back."""


class PivotPassed(Refusal):
    """After its pivot a process cannot be compensated."""


class Process(Aggregate, context="sagas"):
    """The state of one process; what its steps mean is its plan's to say.

    Every step is one transaction with the fact that it was done. A process acts only on its own newest fact and on
    the deadline it waits for, so a fact that is delivered again or late changes nothing.
    """

    class Began(Created):
        process_id: UUID
        plan: str
        subject: dict[str, str]
        steps: list[str]
        cause_event_id: UUID
        due_at: Instant

    class StepDone(Aggregate.Event):
        plan: str
        step: int
        name: str

    class StepContinued(Aggregate.Event):
        """A part of the step was done, and there is more of it."""

        plan: str
        name: str

    class StepRetried(Aggregate.Event):
        """The step was refused for now; it is tried again when the deadline `token` has come."""

        plan: str
        name: str
        attempt: int
        code: str
        token: UUID
        due_at: Instant

    class StepAwaited(Aggregate.Event):
        """The step waits for facts from outside, at most until the deadline `token` has come."""

        plan: str
        name: str
        token: UUID
        due_at: Instant

    class CompensationBegan(Aggregate.Event):
        plan: str
        reason: str

    class StepUndone(Aggregate.Event):
        plan: str
        step: int
        name: str

    class Completed(Aggregate.Event):
        closes = True
        plan: str

    class Compensated(Aggregate.Event):
        closes = True
        plan: str
        reason: str

    class Parked(Aggregate.Event):
        """An operator is wanted; `reason` is the code of a refusal."""

        plan: str
        reason: str

    class Resolved(Aggregate.Event):
        plan: str
        action: str
        reason: str

    @event(Began)
    def __init__(
        self,
        process_id: UUID,
        plan: str,
        subject: dict[str, str],
        steps: list[str],
        cause_event_id: UUID,
        due_at: datetime,
    ) -> None:
        self.plan = plan
        self.subject = subject
        self.steps = steps
        self.due_at = due_at
        self.status = RUNNING
        self.done = 0
        self.parts = 0
        self.attempt = 0
        self.reason = ""
        self.parked_in = RUNNING
        self.awaits = False
        self.waits_for: UUID | None = None

    @staticmethod
    def create_id(process_id: UUID) -> UUID:
        return process_id

    def step_id(self, name: str) -> UUID:
        """The id of what a step makes; the same at every try."""
        return derive("sagas.Process.step", self.id, name)

    def resolve(self, action: str, reason: str, *, pivot_passed: bool) -> None:
        """An operator's decision over a parked process."""
        if self.status != PARKED:
            raise ProcessNotParked(f"process {self.id} is {self.status}")
        if action not in (RETRY, COMPENSATE, SKIP, ABANDON):
            raise ActionUnknown(repr(action))
        if action == SKIP and (self.parked_in != COMPENSATING or not self.done):
            raise NothingToSkip(f"process {self.id}")
        if action == COMPENSATE and pivot_passed:
            raise PivotPassed(f"process {self.id}")
        self._resolved(plan=self.plan, action=action, reason=reason)

    @event(StepDone)
    def _step_done(self, plan: str, step: int, name: str) -> None:
        self.done = step + 1
        self._rest()

    @event(StepContinued)
    def _step_continued(self, plan: str, name: str) -> None:
        parts = self.parts + 1
        self._rest()
        self.parts = parts

    @event(StepRetried)
    def _step_retried(self, plan: str, name: str, attempt: int, code: str, token: UUID, due_at: datetime) -> None:
        self.attempt = attempt
        self.awaits = False
        self.waits_for = token

    @event(StepAwaited)
    def _step_awaited(self, plan: str, name: str, token: UUID, due_at: datetime) -> None:
        self.awaits = True
        self.waits_for = token

    @event(CompensationBegan)
    def _compensation_began(self, plan: str, reason: str) -> None:
        self.status = COMPENSATING
        self.reason = reason
        self._rest()

    @event(StepUndone)
    def _step_undone(self, plan: str, step: int, name: str) -> None:
        self.done = step
        self._rest()

    @event(Completed)
    def _completed(self, plan: str) -> None:
        self.status = COMPLETED

    @event(Compensated)
    def _compensated(self, plan: str, reason: str) -> None:
        self.status = COMPENSATED
        self.reason = reason

    @event(Parked)
    def _parked(self, plan: str, reason: str) -> None:
        self.parked_in = self.status
        self.status = PARKED
        self.reason = reason
        self.awaits = False
        self.waits_for = None

    @event(Resolved)
    def _resolved(self, plan: str, action: str, reason: str) -> None:
        self.status = {RETRY: self.parked_in, ABANDON: COMPENSATED}.get(action, COMPENSATING)
        if action == SKIP:
            self.done -= 1
        self.attempt = 0

    def _rest(self) -> None:
        """Nothing is tried or waited for, and of the next step nothing is done."""
        self.parts = 0
        self.attempt = 0
        self.awaits = False
        self.waits_for = None
