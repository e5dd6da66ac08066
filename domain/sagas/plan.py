"""The plan of a process: steps that all happen, or are taken back in reverse when one of them is refused.

Garcia-Molina and Salem, "Sagas" (1987), with a pivot: after it a process only goes forward, or waits for an operator.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from domain.kernel import Conflict, EventLog, Fact, Refusal, derive

from .deadline import Deadline, Deadlines
from .process import COMPENSATING, ENDED, PARKED, RUNNING, Process

MAX_STEPS = 32


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan.

    `do` and `undo` command services and may refuse; both are given the process, whose `step_id(name)` makes ids that
    are the same at every try. A refusal that is transient (status 503, or named in `transient`) is tried again
    `retries` times, with pauses that double from `first_pause_ms` to `last_pause_ms`.

    `awaits` answers until when the step still waits, or None once it can be done; it is asked again when a fact
    of the plan's `wakes_on` comes, and at that instant. An instant that is past is not waited for: no deadline would
    come again. A step that `parks` is never given up by the process
    alone: where it is refused or times out, an operator decides. A `do` that has more to do than fits in one
    transaction answers True, and is called again: `process.parts` says how many parts are done.
    """

    name: str
    do: Callable[[Process, Any], bool | None]
    undo: Callable[[Process, Any], None] | None = None
    pivot: bool = False
    awaits: Callable[[Process, Any], datetime | None] | None = None
    parks: bool = False
    retries: int = 3
    first_pause_ms: int = 1_000
    last_pause_ms: int = 60_000
    transient: tuple[type[Refusal], ...] = ()


OWN_FACTS = (
    Process.Began,
    Process.StepDone,
    Process.StepContinued,
    Process.CompensationBegan,
    Process.StepUndone,
    Process.Resolved,
)


class Plan(ABC):
    """What a kind of process does: where it begins, its steps, and how long it may take.

    Subclasses give `name`, `steps`, `timeout_ms` (or `due_at`), `begins_on` (event classes) and `subject_of`; where a
    step awaits, also `wakes_on` and `process_of`. The saga runner treats a plan as it treats a saga.
    """

    name: ClassVar[str]
    steps: tuple[Step, ...]
    timeout_ms: ClassVar[int]
    begins_on: ClassVar[tuple[type[Any], ...]]
    wakes_on: ClassVar[tuple[type[Any], ...]] = ()

    def __init__(self, deadlines: Deadlines) -> None:
        assert 0 < len(self.steps) <= MAX_STEPS
        self._deadlines = deadlines

    @property
    def listens(self) -> tuple[type[Any], ...]:
        return (*self.begins_on, *self.wakes_on, *OWN_FACTS, Deadline.Elapsed)

    @abstractmethod
    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        """What a process is about, from the fact that begins it; None begins none."""

    def process_of(self, fact: Fact) -> UUID:
        """The process that a fact begins or wakes; by default every fact that begins one begins its own."""
        return derive("sagas.Process", self.name, fact.event_id)

    def due_at(self, fact: Fact) -> datetime:
        """The deadline of the process that a fact begins."""
        return fact.recorded_at + timedelta(milliseconds=self.timeout_ms)

    def concerns(self, fact: Fact) -> bool:
        """Whether this fact begins or moves a process of this plan."""
        if isinstance(fact.event, Deadline.Elapsed):
            return fact.event.kind == self._deadline_kind
        if isinstance(fact.event, OWN_FACTS):
            return bool(fact.event.plan == self.name)
        return isinstance(fact.event, self.wakes_on) or self.subject_of(fact) is not None

    def handle(self, fact: Fact, log: EventLog, village: Any) -> None:
        """Take a process one step further, inside the runner's transaction."""
        if isinstance(fact.event, self.begins_on):
            self._begin(fact, log)
            return
        if isinstance(fact.event, self.wakes_on):
            self._wake(fact, log, village)
            return
        process_id = fact.event.saga_id if isinstance(fact.event, Deadline.Elapsed) else fact.stream
        process = log.load(Process, process_id)
        if process.status in ENDED or process.status == PARKED:
            return
        match fact.event:
            case Deadline.Elapsed(token=token) if token == self.timeout_token(process.id):
                if process.version == 1:
                    return  # it came before the beginning that it is recorded after, and will come again
                self._time_out(process)
            case Deadline.Elapsed(token=token) if token != process.waits_for:
                return
            case Deadline.Elapsed():
                self._advance(process, fact.recorded_at, log, village)
            case _ if fact.version == process.version:
                self._advance(process, fact.recorded_at, log, village)
        log.record(process)

    def _begin(self, fact: Fact, log: EventLog) -> None:
        process_id = self.process_of(fact)
        subject = self.subject_of(fact)
        if subject is None or log.find(Process, process_id) is not None:
            return
        due_at = self.due_at(fact)
        self._set_deadline(self.timeout_token(process_id), process_id, due_at)
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

    def _wake(self, fact: Fact, log: EventLog, village: Any) -> None:
        """An outside fact: only a process whose next step waits for such is moved by it."""
        process = log.find(Process, self.process_of(fact))
        if process is not None and process.awaits:
            self._advance(process, fact.recorded_at, log, village)
            log.record(process)

    def _advance(self, process: Process, now: datetime, log: EventLog, village: Any) -> None:
        if process.status == RUNNING:
            self._do(process, now, log, village)
        else:
            self._undo(process, now, log, village)

    def _do(self, process: Process, now: datetime, log: EventLog, village: Any) -> None:
        step = self.steps[process.done]
        if step.awaits is not None and (until := step.awaits(process, village)) is not None and until > now:
            self._await(process, step, until)
            return
        more: list[bool | None] = []
        try:
            log.tentatively(lambda: more.append(step.do(process, village)))
        except Conflict:
            raise
        except Refusal as refusal:
            if not self._retry(process, step, refusal, now):
                self._give_up(process, refusal.code)
            return
        if more[0]:
            process._step_continued(plan=self.name, name=step.name)
            return
        process._step_done(plan=self.name, step=process.done, name=step.name)
        if process.done == len(self.steps):
            process._completed(plan=self.name)

    def _await(self, process: Process, step: Step, until: datetime) -> None:
        """Wait for outside facts, at most until an instant; the deadline that is set for it already is kept."""
        token = derive("sagas.Process.await", process.id, process.done, until.isoformat())
        if process.waits_for != token:
            self._set_deadline(token, process.id, until)
            process._step_awaited(plan=self.name, name=step.name, token=token, due_at=until)

    def _undo(self, process: Process, now: datetime, log: EventLog, village: Any) -> None:
        if process.done == 0:
            process._compensated(plan=self.name, reason=process.reason)
            return
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
        if self.pivot_passed(process) or self.steps[process.done].parks:
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

    @staticmethod
    def timeout_token(process_id: UUID) -> UUID:
        """The token of the deadline of a whole process."""
        return derive("sagas.Process.timeout", process_id)

    @property
    def _deadline_kind(self) -> str:
        return f"process:{self.name}"


def pause_ms(process_id: UUID, attempt: int, first_ms: int, last_ms: int) -> int:
    """How long to wait before try number `attempt`, in ms: doubling, bounded, with a jitter that replays the same."""
    whole = min(last_ms, first_ms << (attempt - 1))
    share = int.from_bytes(hashlib.sha256(f"{process_id}|{attempt}".encode()).digest()[:2])
    return whole // 2 + whole * share // 2**17
