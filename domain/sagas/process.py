"""A process of several steps that takes back what it did when one of them is refused: forward, or undone in reverse.

Garcia-Molina and Salem, "Sagas" (1987), with a pivot: after it a process only goes forward, or waits for an operator.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from domain.kernel import Aggregate, Conflict, Created, EventLog, Fact, Instant, Refusal, derive, event

from .deadline import Deadline, Deadlines

RUNNING, COMPENSATING = "running", "compensating"
COMPLETED, COMPENSATED, PARKED = "completed", "compensated", "parked"
ENDED = frozenset({COMPLETED, COMPENSATED})
RETRY, COMPENSATE, ABANDON = "retry", "compensate", "abandon"
MAX_STEPS = 32


class ProcessNotParked(Refusal):
    """Only a parked process waits for an operator."""


class ActionUnknown(Refusal):
    """An operator retries, compensates or abandons a parked process."""


class PivotPassed(Refusal):
    """After its pivot a process cannot be compensated."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan.

    `do` and `undo` command services and may refuse; both are given the process, whose `step_id(name)` makes ids that
    are the same at every try. A refusal that is transient (status 503, or named in `transient`) is tried again
    `retries` times, with pauses that double from `first_pause_ms` to `last_pause_ms`.
    """

    name: str
    do: Callable[["Process", Any], None]
    undo: Callable[["Process", Any], None] | None = None
    pivot: bool = False
    retries: int = 3
    first_pause_ms: int = 1_000
    last_pause_ms: int = 60_000
    transient: tuple[type[Refusal], ...] = ()


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

    class StepRetried(Aggregate.Event):
        """The step was refused for now; it is tried again when the deadline `token` has come."""

        plan: str
        name: str
        attempt: int
        code: str
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
        plan: str

    class Compensated(Aggregate.Event):
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
        self.attempt = 0
        self.reason = ""
        self.parked_in = RUNNING
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
        if action not in (RETRY, COMPENSATE, ABANDON):
            raise ActionUnknown(repr(action))
        if action == COMPENSATE and pivot_passed:
            raise PivotPassed(f"process {self.id}")
        self._resolved(plan=self.plan, action=action, reason=reason)

    @event(StepDone)
    def _step_done(self, plan: str, step: int, name: str) -> None:
        self.done = step + 1
        self.attempt = 0
        self.waits_for = None

    @event(StepRetried)
    def _step_retried(self, plan: str, name: str, attempt: int, code: str, token: UUID, due_at: datetime) -> None:
        self.attempt = attempt
        self.waits_for = token

    @event(CompensationBegan)
    def _compensation_began(self, plan: str, reason: str) -> None:
        self.status = COMPENSATING
        self.reason = reason
        self.attempt = 0
        self.waits_for = None

    @event(StepUndone)
    def _step_undone(self, plan: str, step: int, name: str) -> None:
        self.done = step
        self.attempt = 0
        self.waits_for = None

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
        self.waits_for = None

    @event(Resolved)
    def _resolved(self, plan: str, action: str, reason: str) -> None:
        self.status = {RETRY: self.parked_in, COMPENSATE: COMPENSATING, ABANDON: COMPENSATED}[action]
        self.attempt = 0


# Here, because the library replaces the event classes of a body when the class is made.
OWN_FACTS = (
    Process.Began,
    Process.StepDone,
    Process.CompensationBegan,
    Process.StepUndone,
    Process.Resolved,
)


class Plan(ABC):
    """What a kind of process does: where it begins, its steps, and how long it may take.

    Subclasses give `name`, `steps`, `timeout_ms`, `begins_on` (event classes) and `subject_of`. The saga runner treats
    a plan as it treats a saga.
    """

    name: ClassVar[str]
    steps: ClassVar[tuple[Step, ...]]
    timeout_ms: ClassVar[int]
    begins_on: ClassVar[tuple[type[Any], ...]]

    def __init__(self, deadlines: Deadlines) -> None:
        assert 0 < len(self.steps) <= MAX_STEPS
        self._deadlines = deadlines

    @property
    def listens(self) -> tuple[type[Any], ...]:
        return (*self.begins_on, *OWN_FACTS, Deadline.Elapsed)

    @abstractmethod
    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        """What a process is about, from the fact that begins it; None begins none."""

    def concerns(self, fact: Fact) -> bool:
        """Whether this fact begins or moves a process of this plan."""
        match fact.event:
            case Deadline.Elapsed(kind=kind):
                return bool(kind == self._deadline_kind)
            case Process.Began() | Process.StepDone() | Process.CompensationBegan() | Process.StepUndone():
                return bool(fact.event.plan == self.name)
            case Process.Resolved(plan=plan):
                return bool(plan == self.name)
        return self.subject_of(fact) is not None

    def handle(self, fact: Fact, log: EventLog, village: Any) -> None:
        """Take a process one step further, inside the runner's transaction."""
        if isinstance(fact.event, self.begins_on):
            self._begin(fact, log)
            return
        process_id = fact.event.saga_id if isinstance(fact.event, Deadline.Elapsed) else fact.stream
        process = log.load(Process, process_id)
        if process.status in ENDED or process.status == PARKED:
            return
        match fact.event:
            case Deadline.Elapsed(token=token) if token == self._timeout_token(process.id):
                self._time_out(process)
            case Deadline.Elapsed(token=token) if token != process.waits_for:
                return
            case Deadline.Elapsed():
                self._advance(process, fact.recorded_at, log, village)
            case _ if fact.version == process.version:
                self._advance(process, fact.recorded_at, log, village)
        log.record(process)

    def _begin(self, fact: Fact, log: EventLog) -> None:
        process_id = derive("sagas.Process", self.name, fact.event_id)
        subject = self.subject_of(fact)
        if subject is None or log.find(Process, process_id) is not None:
            return
        due_at = fact.recorded_at + timedelta(milliseconds=self.timeout_ms)
        self._set_deadline(self._timeout_token(process_id), process_id, due_at)
        log.record(
            Process(
                process_id=process_id,
                plan=self.name,
                subject=subject,
                steps=[step.name for step in self.steps],
                cause_event_id=fact.event_id,
                due_at=due_at,
            )
        )

    def _advance(self, process: Process, now: datetime, log: EventLog, village: Any) -> None:
        if process.status == RUNNING:
            self._do(process, now, log, village)
        else:
            self._undo(process, now, log, village)

    def _do(self, process: Process, now: datetime, log: EventLog, village: Any) -> None:
        step = self.steps[process.done]
        try:
            log.tentatively(lambda: step.do(process, village))
        except Conflict:
            raise
        except Refusal as refusal:
            if not self._retry(process, step, refusal, now):
                self._give_up(process, refusal.code)
            return
        process._step_done(plan=self.name, step=process.done, name=step.name)
        if process.done == len(self.steps):
            process._completed(plan=self.name)

    def _undo(self, process: Process, now: datetime, log: EventLog, village: Any) -> None:
        step = self.steps[process.done - 1]
        try:
            if step.undo is not None:
                undo = step.undo
                log.tentatively(lambda: undo(process, village))
        except Conflict:
            raise
        except Refusal as refusal:
            if not self._retry(process, step, refusal, now, always=True):
                process._parked(plan=self.name, reason=refusal.code)
            return
        process._step_undone(plan=self.name, step=process.done - 1, name=step.name)
        if process.done == 0:
            process._compensated(plan=self.name, reason=process.reason)

    def _give_up(self, process: Process, reason: str) -> None:
        if self.pivot_passed(process):
            process._parked(plan=self.name, reason=reason)
        elif process.done:
            process._compensation_began(plan=self.name, reason=reason)
        else:
            process._compensated(plan=self.name, reason=reason)

    def _time_out(self, process: Process) -> None:
        """Every process ends or parks by its deadline."""
        if process.status == COMPENSATING:
            process._parked(plan=self.name, reason="timed_out")
        else:
            self._give_up(process, "timed_out")

    def _retry(self, process: Process, step: Step, refusal: Refusal, now: datetime, *, always: bool = False) -> bool:
        transient = always or refusal.status == 503 or isinstance(refusal, step.transient)
        attempt = process.attempt + 1
        if not transient or attempt > step.retries:
            return False
        token = derive("sagas.Process.retry", process.id, process.status, process.done, process.version)
        due_at = now + timedelta(milliseconds=pause_ms(process.id, attempt, step.first_pause_ms, step.last_pause_ms))
        self._set_deadline(token, process.id, due_at)
        process._step_retried(
            plan=self.name, name=step.name, attempt=attempt, code=refusal.code, token=token, due_at=due_at
        )
        return True

    def pivot_passed(self, process: Process) -> bool:
        """Whether a step was done after which there is no way back."""
        return any(step.pivot for step in self.steps[: process.done])

    def _set_deadline(self, token: UUID, process_id: UUID, due_at: datetime) -> None:
        self._deadlines.set_deadline(token=token, saga_id=process_id, kind=self._deadline_kind, due_at=due_at)

    def _timeout_token(self, process_id: UUID) -> UUID:
        return derive("sagas.Process.timeout", process_id)

    @property
    def _deadline_kind(self) -> str:
        return f"process:{self.name}"


def pause_ms(process_id: UUID, attempt: int, first_ms: int, last_ms: int) -> int:
    """How long to wait before try number `attempt`, in ms: doubling, bounded, with a jitter that replays the same."""
    whole = min(last_ms, first_ms << (attempt - 1))
    share = int.from_bytes(hashlib.sha256(f"{process_id}|{attempt}".encode()).digest()[:2])
    return whole // 2 + whole * share // 2**17
