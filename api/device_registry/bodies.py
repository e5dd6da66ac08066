"""The bodies of the device registry's commands, bounded."""

from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field

from api.edge.commands import Body, Milliseconds, Reason
from domain.device_registry import capabilities, enrolment
from domain.device_registry.capabilities import Capabilities
from domain.device_registry.evidence import Evidence, Measurement
from infrastructure.presence import MAX_LATENCY_MS, MAX_SEQUENCE

Tag = Annotated[str, Field(pattern=rf"^{capabilities.TAG}$")]
Tags = Annotated[list[Tag], Field(max_length=capabilities.MAX_TAGS)]
Encoded = Annotated[str, Field(max_length=128)]


class IssueClaim(Body):
    """`owner_id` is for operators; members claim for themselves. The default expiry is the village's setting."""

    owner_id: UUID | None = None
    expires_in_ms: Annotated[Milliseconds, Field(strict=True)] | None = None


class RequestChallenge(Body):
    """Nothing is asked."""


class CapabilitiesBody(Body):
    """Memory in MiB, cores, compute score in milli-units of the named benchmark."""

    ram_mb: Annotated[int, Field(strict=True, ge=1, le=capabilities.MAX_RAM_MB)]
    cpu_cores: Annotated[int, Field(strict=True, ge=1, le=capabilities.MAX_CPU_CORES)]
    compute_score: Annotated[int, Field(strict=True, ge=0, le=capabilities.MAX_COMPUTE_SCORE)]
    frameworks: Tags
    capabilities: Tags
    benchmark_id: Annotated[str, Field(min_length=1, max_length=capabilities.MAX_BENCHMARK_ID)]

    def value(self) -> Capabilities:
        return Capabilities(**self.model_dump())


class RegisterDevice(Body):
    """Keys and proof in base64. The proof is an Ed25519 signature over challenge, claim and keys."""

    claim_code: Annotated[str, Field(max_length=enrolment.MAX_CLAIM_CODE)]
    challenge: Annotated[str, Field(max_length=enrolment.MAX_CHALLENGE)]
    device_type: Tag
    region: Tag
    ed25519_pub: Encoded
    x25519_pub: Encoded
    capabilities: CapabilitiesBody
    proof: Encoded


class ChangeStatus(Body):
    """Which device, and why; the reason is recorded."""

    device_id: UUID
    reason: Reason


class RotateKey(Body):
    """The new key in base64. `signature` is by the present key, `proof` by the new one, over the same text."""

    challenge: Annotated[str, Field(max_length=enrolment.MAX_CHALLENGE)]
    ed25519_pub: Encoded
    signature: Encoded
    proof: Encoded


class MeasurementBody(Body):
    """What a method in a version gave, in its unit. The registry says what is possible."""

    method: Annotated[str, Field(max_length=64)]
    version: Annotated[int, Field(strict=True)]
    value: Annotated[int, Field(strict=True)]
    measured_at: AwareDatetime


class EvidenceBody(Body):
    """Cores and MiB the device found, what it measured, and its Ed25519 signature over both in base64."""

    cpu_cores: Annotated[int, Field(strict=True)]
    ram_mb: Annotated[int, Field(strict=True)]
    measurements: Annotated[list[MeasurementBody], Field(max_length=16)]
    signature: Encoded

    def value(self) -> Evidence:
        found = [Measurement(**one.model_dump()) for one in self.measurements]
        return Evidence(cpu_cores=self.cpu_cores, ram_mb=self.ram_mb, measurements=found)


class UpdateCapabilities(Body):
    """All capabilities as they are now, and evidence for them."""

    capabilities: CapabilitiesBody
    evidence: EvidenceBody | None = None


class Heartbeat(Body):
    """`sequence` is greater than in every earlier heartbeat of the device."""

    sequence: Annotated[int, Field(strict=True, ge=1, le=MAX_SEQUENCE)]
    latency_ms: Annotated[int, Field(strict=True, ge=0, le=MAX_LATENCY_MS)] | None = None


class AskRemeasurement(Body):
    """Which device is to measure again."""

    device_id: UUID
