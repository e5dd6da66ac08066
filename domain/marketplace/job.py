"""A job: work that a customer gives to the device of an active contract."""

import re
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, NotFound, Refusal, event

from .terms import Terms
from .work import JobSpec, checked_spec

OPEN, SUCCEEDED, FAILED, CANCELLED = "open", "succeeded", "failed", "cancelled"
REASONS = (
    "cpu_limit", "wall_limit", "memory_limit", "output_limit", "crashed", "unfit", "sandbox_unavailable",
)  # fmt: skip
"""Why a job failed."""
_HASH = re.compile(r"[0-9a-f]{64}")


class JobUnknown(NotFound):
    """A job is known to the parties of its contract and to its device."""


class JobReportInvalid(Refusal):
    """A job succeeds with the SHA-256 of its result, or fails for a known reason without one; no time is negative."""


class Job(Aggregate):
    """Open, then succeeded, failed or cancelled."""

    class Submitted(Created):
        job_id: UUID
        contract_id: UUID
        device_id: UUID
        provider_id: UUID
        customer_id: UUID
        spec: JobSpec
        deadline_at: Instant

    class Progressed(Aggregate.Event):
        """The job has used so much processor time in all."""

        used_ms: int

    class Ended(Aggregate.Event):
        closes = True
        outcome: str
        reason: str
        wall_ms: int
        result_hash: str | None

    @event(Submitted)
    def __init__(
        self,
        job_id: UUID,
        contract_id: UUID,
        device_id: UUID,
        provider_id: UUID,
        customer_id: UUID,
        spec: JobSpec,
        deadline_at: Instant,
    ) -> None:
        self.contract_id = contract_id
        self.device_id = device_id
        self.customer_id = customer_id
        self.spec = spec
        self.used_ms = 0
        self.outcome: str | None = None

    @staticmethod
    def create_id(job_id: UUID) -> UUID:
        return job_id

    @classmethod
    def submit(cls, job_id: UUID, contract_id: UUID, terms: Terms, spec: JobSpec) -> "Job":
        """A job for the device of a contract. Raises JobInvalid."""
        return cls(
            job_id=job_id,
            contract_id=contract_id,
            device_id=terms.device_id,
            provider_id=terms.provider_id,
            customer_id=terms.customer_id,
            spec=checked_spec(spec),
            deadline_at=terms.deadline_at,
        )

    @property
    def ended(self) -> bool:
        return self.outcome is not None

    def progress(self, used_ms: int) -> int:
        """What it has used in all, at most its limit; answers by how many ms that is more than was known.

        The device of a job that was cancelled hears of it when it reports next.

        Raises:
            JobReportInvalid.
        """
        if used_ms < 0:
            raise JobReportInvalid(f"{used_ms} ms")
        more = min(used_ms, self.spec.limits.cpu_ms) - self.used_ms
        if self.outcome not in (None, CANCELLED) or more <= 0:
            return 0
        self._progressed(used_ms=self.used_ms + more)
        return more

    def end(self, outcome: str, reason: str, wall_ms: int, result_hash: str | None) -> None:
        """Its device says how it ended; again changes nothing. Raises JobReportInvalid."""
        good = outcome == SUCCEEDED and not reason and result_hash is not None and _HASH.fullmatch(result_hash)
        bad = outcome == FAILED and reason in REASONS and result_hash is None
        if not (good or bad) or wall_ms < 0:
            raise JobReportInvalid(f"{outcome} {reason}".strip())
        if not self.ended:
            self._ended(outcome=outcome, reason=reason, wall_ms=wall_ms, result_hash=result_hash)

    def cancel(self, reason: str) -> None:
        """Nobody wants it any more; again changes nothing."""
        if not self.ended:
            self._ended(outcome=CANCELLED, reason=reason, wall_ms=0, result_hash=None)

    @event(Progressed)
    def _progressed(self, used_ms: int) -> None:
        self.used_ms = used_ms

    @event(Ended)
    def _ended(self, outcome: str, reason: str, wall_ms: int, result_hash: str | None) -> None:
        self.outcome = outcome
