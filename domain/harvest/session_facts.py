"""What can happen to a harvest session: the events that `HarvestSession` records, under its own name."""

from uuid import UUID

from domain.kernel import Aggregate, Instant

from .audit import Job
from .contribution import Contribution
from .policy import HarvestPolicy


class SessionFacts:
    """The events of a session. The aggregate that inherits them has them as its own, topics and all."""

    class SessionAdmitted(Aggregate.Event):
        policy: HarvestPolicy
        sensor_capabilities: list[str]

    class Rejected(Aggregate.Event):
        closes = True
        reason: str

    class SegmentClosed(Aggregate.Event):
        """A stretch of samples: `run_ms` of it ran, at `duty_bp` on average; `digest` chains the samples."""

        sequence: int
        from_at: Instant
        to_at: Instant
        run_ms: int
        verified_ms: int
        duty_bp: int
        samples: int
        digest: str

    class SafetyTripped(Aggregate.Event):
        """To throttled or paused: `sensor` observed this, beyond the limit. None of both for a sensor that failed."""

        to: str
        sequence: int
        at: Instant
        kind: str
        sensor: str
        observed: float | None
        limit: float | None

    class SafetyCleared(Aggregate.Event):
        """To running."""

        sequence: int
        at: Instant

    class StopRequested(Aggregate.Event):
        """By its owner or an operator; the device is told with its next samples."""

        reason: str

    class AuditRequested(Aggregate.Event):
        job: Job

    class AuditAnswered(Aggregate.Event):
        answer: str

    class AuditPassed(Aggregate.Event):
        pass

    class AuditFailed(Aggregate.Event):
        reason: str

    class SessionClosed(Aggregate.Event):
        reason: str
        resources_contributed: Contribution
        quality_bp: int
        closed_at: Instant

    class Rewarded(Aggregate.Event):
        """What a session gave, and the claim for it; `claim_id` is None where nothing was due."""

        closes = True
        device_id: UUID
        resources_contributed: Contribution
        quality_bp: int
        claim_id: UUID | None
        grains: int
