"""Benchmark evidence: what a device has measured of itself, signed by it, and what it may declare then."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from domain.kernel import Instant, Refusal, Value

from .capabilities import MAX_CPU_CORES, MAX_RAM_MB, Capabilities
from .enrolment import is_signed

MAX_AGE = timedelta(days=1)
CLOCK_TOLERANCE = timedelta(minutes=5)
TOLERANCE_PERCENT = 125
"""A score may be declared up to so much of what was measured: benchmarks of one machine differ."""
_INTRODUCTION = b"village-benchmark-evidence/1\n"


class Method(NamedTuple):
    """How something is measured: the column it answers, its unit, and the most that any device can do."""

    quantity: str
    unit: str
    most: int


METHODS: Final[Mapping[tuple[str, int], Method]] = {
    ("matmul-f32", 1): Method("matrix_mflops", "MFLOP/s", 10_000_000),
    ("memory-copy", 1): Method("memory_mb_s", "MB/s", 1_000_000),
    ("disk-write", 1): Method("disk_mb_s", "MB/s", 200_000),
}
"""By name and version: products of float32 matrices and copies in memory on one thread; writes that are synced."""
SCORES: Final = {"matmul-f32-v1": "matrix_mflops"}
"""Which measured quantity a benchmark's compute score is."""


class MeasurementMethodUnknown(Refusal):
    """Evidence is measured by known methods in known versions, each once, and by at least one."""


class MeasurementImpossible(Refusal):
    """What was measured is more than nothing and no more than is physically possible."""


class EvidenceTimeInvalid(Refusal):
    """Evidence was measured within the last day, not in the future, and later than what is known already."""


class EvidenceSignatureInvalid(Refusal):
    """Evidence is signed by the present key of its device."""


class CapabilitiesBeyondEvidence(Refusal):
    """A device declares no more memory and cores than it found, and at most a quarter more score than it measured."""


class Measurement(Value, frozen=True):
    """What a method in a version gave, in the method's unit."""

    method: str
    version: int
    value: int
    measured_at: Instant


class Evidence(Value, frozen=True):
    """The cores and the memory in MiB that the device found, and what it measured with them."""

    cpu_cores: int
    ram_mb: int
    measurements: list[Measurement]

    @property
    def quantities(self) -> dict[str, int]:
        """Every measured value by its quantity."""
        return {METHODS[one.method, one.version].quantity: one.value for one in self.measurements}

    @property
    def measured_at(self) -> datetime:
        """When the first of it was measured."""
        return min(one.measured_at for one in self.measurements)


def evidence_text(device_id: UUID, evidence: Evidence) -> bytes:
    """What a device signs: the evidence and whose it is."""
    return _INTRODUCTION + str(device_id).encode() + b"\n" + msgspec.json.encode(evidence, order="deterministic")


def checked_evidence(evidence: Evidence, known: Evidence | None, now: datetime) -> Evidence:
    """The evidence, once it is known to be possible and new.

    Raises:
        MeasurementMethodUnknown, MeasurementImpossible, EvidenceTimeInvalid.
    """
    methods = [(one.method, one.version) for one in evidence.measurements]
    if not methods or len(set(methods)) < len(methods) or not METHODS.keys() >= set(methods):
        raise MeasurementMethodUnknown(", ".join(f"{name} {version}" for name, version in methods[:8]) or "none")
    _possible("cpu_cores", evidence.cpu_cores, MAX_CPU_CORES)
    _possible("ram_mb", evidence.ram_mb, MAX_RAM_MB)
    for one in evidence.measurements:
        _possible(one.method, one.value, METHODS[one.method, one.version].most)
        if not now - MAX_AGE <= one.measured_at <= now + CLOCK_TOLERANCE:
            raise EvidenceTimeInvalid(f"{one.method} at {one.measured_at.isoformat()}, now is {now.isoformat()}")
    if known is not None and evidence.measured_at <= known.measured_at:
        raise EvidenceTimeInvalid(f"evidence of {known.measured_at.isoformat()} is known")
    return evidence


def check_evidence_signature(ed25519_pub: str, device_id: UUID, evidence: Evidence, signature: str) -> None:
    """Raises EvidenceSignatureInvalid."""
    if not is_signed(ed25519_pub, signature, evidence_text(device_id, evidence)):
        raise EvidenceSignatureInvalid(f"device {device_id}")


def check_borne_out(declared: Capabilities, evidence: Evidence) -> None:
    """Raises CapabilitiesBeyondEvidence."""
    for name, value, most in (
        ("ram_mb", declared.ram_mb, evidence.ram_mb),
        ("cpu_cores", declared.cpu_cores, evidence.cpu_cores),
    ):
        if value > most:
            raise CapabilitiesBeyondEvidence(f"{name} {value} declared, {most} found")
    measured = evidence.quantities.get(SCORES.get(declared.benchmark_id, ""))
    if measured is not None and declared.compute_score * 100 > measured * TOLERANCE_PERCENT:
        raise CapabilitiesBeyondEvidence(f"compute_score {declared.compute_score} declared, {measured} measured")


def _possible(name: str, value: int, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise MeasurementImpossible(f"{name} {str(value)[:24]} is not from 1 to {most}")
