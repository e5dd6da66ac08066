"""A harvest session: one device lends itself under a policy, from admission to what it earned."""

from datetime import datetime
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, event
from domain.kernel.time import milliseconds

from .audit import AuditUnknown, Job, answer_of
from .contribution import BASIS, Contribution, HarvestSessionOver, quality_bp
from .decide import Transition, Watch
from .policy import HarvestPolicy
from .session_facts import SessionFacts
from .states import (
    ADMITTED,
    CLOSED,
    OPEN,
    REJECTED,
    REWARDED,
    RUNNING,
    STOPPING,
)


class HarvestSession(SessionFacts, Aggregate):
    """Transitions and segments name the sample they come with: what is at or before the last one known is no news."""

    class Requested(Created):
        """`sensors` are the sensors that the device says it has."""

        session_id: UUID
        device_id: UUID
        owner_id: UUID
        number: int
        policy: HarvestPolicy
        sensors: list[str]
        requested_at: Instant

    @event(Requested)
    def __init__(
        self,
        session_id: UUID,
        device_id: UUID,
        owner_id: UUID,
        number: int,
        policy: HarvestPolicy,
        sensors: list[str],
        requested_at: datetime,
    ) -> None:
        self.device_id = device_id
        self.owner_id = owner_id
        self.policy = policy
        self.requested_at = requested_at
        self.status = ADMITTED
        self.sequence = 0
        self.seen_at: datetime | None = None
        self.contribution = Contribution(0, 0, 0)
        self.quality_bp = 0
        self.job: Job | None = None
        self.answer: str | None = None
        self.audit: bool | None = None
        self.closed_at: datetime | None = None

    @staticmethod
    def create_id(session_id: UUID) -> UUID:
        return session_id

    def admit(self, sensors: list[str], missing: str | None, job: Job | None) -> None:
        """Let it begin, or reject it for a sensor that its policy needs; `job` is its audit, if it is chosen."""
        if missing is not None:
            self._rejected(reason=f"sensor_unknown:{missing}")
            return
        self._session_admitted(policy=self.policy, sensor_capabilities=sensors)
        if job is not None:
            self._audit_requested(job=job)

    @property
    def is_open(self) -> bool:
        """Whether it takes samples."""
        return self.status in OPEN

    def watch(self, kept: Watch | None) -> Watch:
        """What was kept beside the log; if the log has gone on without it, what the log knows."""
        if kept is not None and kept.status == self.status and kept.sequence >= self.sequence:
            return kept
        seen = self.seen_at
        return Watch(
            status=self.status, sequence=self.sequence, last_at=seen, good_at=seen, unclear_at=seen, from_at=seen
        )

    def require_open(self) -> None:
        """Pass while it takes samples. Raises HarvestSessionOver."""
        if not self.is_open:
            raise HarvestSessionOver(f"session {self.id} is {self.status}")

    def take(self, transition: Transition, counted: Watch) -> None:
        """The transition that a sample has brought, and the segment it ends."""
        if transition.sequence < self.sequence or transition.to == self.status or not self.is_open:
            return
        self.close_segment(counted)
        reading = transition.reading
        if transition.to == CLOSED:
            self.close(reading.kind, transition.at)
        elif transition.to == RUNNING:
            self._safety_cleared(sequence=transition.sequence, at=transition.at)
        else:
            self._safety_tripped(
                to=transition.to, sequence=transition.sequence, at=transition.at, kind=reading.kind,
                sensor=reading.sensor, observed=reading.observed, limit=reading.limit,
            )  # fmt: skip

    def close_segment(self, counted: Watch) -> None:
        """Record what was counted since the last segment, if there is anything."""
        if counted.sequence <= self.sequence or not counted.run_ms:
            return
        assert counted.from_at is not None
        assert counted.last_at is not None
        run_ms = min(counted.run_ms, milliseconds(counted.from_at, counted.last_at))
        self._segment_closed(
            sequence=counted.sequence, from_at=counted.from_at, to_at=counted.last_at, run_ms=run_ms,
            verified_ms=min(run_ms, counted.duty_ms // BASIS), duty_bp=counted.duty_ms // max(1, counted.run_ms),
            samples=counted.samples, digest=counted.digest,
        )  # fmt: skip

    def request_stop(self, reason: str) -> None:
        """Ask the device to end it; no time counts from here on. Again changes nothing. Raises HarvestSessionOver."""
        self.require_open()
        if self.status != STOPPING:
            self._stop_requested(reason=reason)

    def close(self, reason: str, now: datetime) -> None:
        """End it; again changes nothing."""
        if self.is_open:
            done = self.contribution
            self._session_closed(reason=reason, resources_contributed=done, quality_bp=quality_bp(done), closed_at=now)

    def give_answer(self, answer: str) -> None:
        """The device's answer to its audit; the same again changes nothing. Raises AuditUnknown."""
        if self.job is None or self.audit is not None or self.answer not in (None, answer):
            raise AuditUnknown(f"session {self.id}")
        if self.answer is None:
            self._audit_answered(answer=answer)

    def judge(self) -> bool:
        """Whether it has passed its audit, or had none to pass; decided once."""
        if self.job is not None and self.audit is None:
            if self.answer is None:
                self._audit_failed(reason="unanswered")
            elif self.answer != answer_of(self.job):
                self._audit_failed(reason="wrong_answer")
            else:
                self._audit_passed()
        return self.audit is not False

    def reward(self, claim_id: UUID | None, grains: int) -> None:
        """What it has earned is claimed; again changes nothing."""
        if self.status == CLOSED:
            self._rewarded(
                device_id=self.device_id, resources_contributed=self.contribution, quality_bp=self.quality_bp,
                claim_id=claim_id, grains=grains,
            )  # fmt: skip

    @event(SessionFacts.SessionAdmitted)
    def _session_admitted(self, policy: HarvestPolicy, sensor_capabilities: list[str]) -> None:
        self.status = ADMITTED

    @event(SessionFacts.Rejected)
    def _rejected(self, reason: str) -> None:
        self.status = REJECTED

    @event(SessionFacts.SegmentClosed)
    def _segment_closed(
        self,
        sequence: int,
        from_at: datetime,
        to_at: datetime,
        run_ms: int,
        verified_ms: int,
        duty_bp: int,
        samples: int,
        digest: str,
    ) -> None:
        done = self.contribution
        self.sequence = sequence
        self.seen_at = to_at
        self.contribution = Contribution(done.run_ms + run_ms, done.verified_ms + verified_ms, done.samples + samples)

    @event(SessionFacts.SafetyTripped)
    def _safety_tripped(
        self,
        to: str,
        sequence: int,
        at: datetime,
        kind: str,
        sensor: str,
        observed: float | None,
        limit: float | None,
    ) -> None:
        self._changed(to, sequence, at)

    @event(SessionFacts.SafetyCleared)
    def _safety_cleared(self, sequence: int, at: datetime) -> None:
        self._changed(RUNNING, sequence, at)

    @event(SessionFacts.StopRequested)
    def _stop_requested(self, reason: str) -> None:
        self.status = STOPPING

    @event(SessionFacts.AuditRequested)
    def _audit_requested(self, job: Job) -> None:
        self.job = job

    @event(SessionFacts.AuditAnswered)
    def _audit_answered(self, answer: str) -> None:
        self.answer = answer

    @event(SessionFacts.AuditPassed)
    def _audit_passed(self) -> None:
        self.audit = True

    @event(SessionFacts.AuditFailed)
    def _audit_failed(self, reason: str) -> None:
        self.audit = False

    @event(SessionFacts.SessionClosed)
    def _session_closed(
        self, reason: str, resources_contributed: Contribution, quality_bp: int, closed_at: datetime
    ) -> None:
        self.status = CLOSED
        self.quality_bp = quality_bp
        self.closed_at = closed_at

    @event(SessionFacts.Rewarded)
    def _rewarded(
        self,
        device_id: UUID,
        resources_contributed: Contribution,
        quality_bp: int,
        claim_id: UUID | None,
        grains: int,
    ) -> None:
        self.status = REWARDED

    def _changed(self, status: str, sequence: int, at: datetime) -> None:
        self.status = status
        self.sequence = sequence
        self.seen_at = at
