"""What can happen to a device after its claim: the events that `Device` records, under its own name."""

from uuid import UUID

from domain.kernel import Aggregate, Instant

from .capabilities import Capabilities
from .evidence import Evidence


class DeviceFacts:
    """The events of a device. The aggregate that inherits them has them as its own, topics and all."""

    class Enrolled(Aggregate.Event):
        device_id: UUID
        owner_id: UUID
        device_type: str
        ed25519_pub: str
        x25519_pub: str
        region: str
        capabilities: Capabilities
        enrolled_at: Instant

    class KeyRotated(Aggregate.Event):
        ed25519_pub: str

    class Suspended(Aggregate.Event):
        reason: str

    class Reinstated(Aggregate.Event):
        reason: str

    class Retired(Aggregate.Event):
        reason: str

    class CapabilitiesChanged(Aggregate.Event):
        capabilities: Capabilities

    class Benchmarked(Aggregate.Event):
        """What the device has measured of itself; `signature` is by its key of the time over `evidence_text`."""

        evidence: Evidence
        signature: str

    class EvidenceDropped(Aggregate.Event):
        """What the device once measured counts no more: it was asked to measure again, and did not."""

    class WentOnline(Aggregate.Event):
        seen_at: Instant

    class WentDegraded(Aggregate.Event):
        seen_at: Instant

    class WentOffline(Aggregate.Event):
        last_seen_at: Instant

    class LatencyClassChanged(Aggregate.Event):
        latency_ms: int
