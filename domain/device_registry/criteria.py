"""Device criteria: what a service asks of a device, and which of it a device does not meet."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from domain.kernel import Refusal, Value

from .capabilities import MAX_COMPUTE_SCORE, MAX_CPU_CORES, MAX_RAM_MB, MAX_TAGS, is_tag
from .device import ONLINE
from .evidence import METHODS
from .latency import LATENCY_CLASSES_MS
from .reputation import NEWCOMER_BP, SERVICES
from .status import ACTIVE


class CriteriaInvalid(Refusal):
    """Criteria lie within the bounds of what devices can have."""


class DeviceCriteria(Value, frozen=True):
    """What a device has to have. What is None or empty is not asked.

    Scores are in milli-units, reputations in basis points per service, latency in ms. A device whose latency is not
    known does not meet a latency bound; one without evidence has the reputation of a newcomer. The last three are
    about what was measured: a device that brings no such evidence does not meet them.
    """

    min_ram_mb: int | None = None
    min_cpu_cores: int | None = None
    min_compute_score: int | None = None
    required_capabilities: list[str] = []
    required_frameworks: list[str] = []
    min_reputation_score: dict[str, int] = {}
    max_latency_ms: int | None = None
    geographic_region: str | None = None
    availability_required: bool = True
    min_matrix_mflops: int | None = None
    min_memory_mb_s: int | None = None
    min_disk_mb_s: int | None = None


class Candidate(Protocol):
    """What is known of a device when it is measured against criteria."""

    @property
    def status(self) -> str: ...
    @property
    def ram_mb(self) -> int: ...
    @property
    def cpu_cores(self) -> int: ...
    @property
    def compute_score(self) -> int: ...
    @property
    def capabilities(self) -> Sequence[str]: ...
    @property
    def frameworks(self) -> Sequence[str]: ...
    @property
    def reputation(self) -> Mapping[str, int]: ...
    @property
    def latency_ms(self) -> int | None: ...
    @property
    def region(self) -> str: ...
    @property
    def presence(self) -> str: ...
    @property
    def matrix_mflops(self) -> int | None: ...
    @property
    def memory_mb_s(self) -> int | None: ...
    @property
    def disk_mb_s(self) -> int | None: ...


class Mismatch(Value, frozen=True):
    """One reason why a device does not match: the criterion's name, what was asked and what was found."""

    criterion: str
    wanted: str
    found: str


def mismatches(criteria: DeviceCriteria, device: Candidate) -> list[Mismatch]:
    """Every reason why a device does not match, in the order of the criteria; empty when it does.

    A device that is not active matches no criteria.
    """
    found: list[Mismatch] = []
    if device.status != ACTIVE:
        found.append(Mismatch("status", ACTIVE, device.status))
    for name, least, has in (
        ("min_ram_mb", criteria.min_ram_mb, device.ram_mb),
        ("min_cpu_cores", criteria.min_cpu_cores, device.cpu_cores),
        ("min_compute_score", criteria.min_compute_score, device.compute_score),
    ):
        if least is not None and has < least:
            found.append(Mismatch(name, str(least), str(has)))
    for name, required, offered in (
        ("required_capabilities", criteria.required_capabilities, device.capabilities),
        ("required_frameworks", criteria.required_frameworks, device.frameworks),
    ):
        if missing := sorted(set(required) - set(offered)):
            found.append(Mismatch(name, ", ".join(missing), ", ".join(offered)))
    for service, least_bp in sorted(criteria.min_reputation_score.items()):
        score = device.reputation.get(service, NEWCOMER_BP)
        if score < least_bp:
            found.append(Mismatch("min_reputation_score", f"{service} {least_bp}", str(score)))
    most, latency = criteria.max_latency_ms, device.latency_ms
    if most is not None and (latency is None or latency > most):
        found.append(Mismatch("max_latency_ms", str(most), "unknown" if latency is None else str(latency)))
    if criteria.geographic_region is not None and device.region != criteria.geographic_region:
        found.append(Mismatch("geographic_region", criteria.geographic_region, device.region))
    if criteria.availability_required and device.presence != ONLINE:
        found.append(Mismatch("availability_required", ONLINE, device.presence))
    for name, least, measured in (
        ("min_matrix_mflops", criteria.min_matrix_mflops, device.matrix_mflops),
        ("min_memory_mb_s", criteria.min_memory_mb_s, device.memory_mb_s),
        ("min_disk_mb_s", criteria.min_disk_mb_s, device.disk_mb_s),
    ):
        if least is not None and (measured is None or measured < least):
            found.append(Mismatch(name, str(least), "not measured" if measured is None else str(measured)))
    return found


MAX_LATENCY_MS = LATENCY_CLASSES_MS[-1]


def checked_criteria(criteria: DeviceCriteria) -> DeviceCriteria:
    """The criteria themselves, once they are known to be within their bounds.

    Raises:
        CriteriaInvalid: names the field.
    """
    _within("min_ram_mb", criteria.min_ram_mb, MAX_RAM_MB)
    _within("min_cpu_cores", criteria.min_cpu_cores, MAX_CPU_CORES)
    _within("min_compute_score", criteria.min_compute_score, MAX_COMPUTE_SCORE)
    _within("max_latency_ms", criteria.max_latency_ms, MAX_LATENCY_MS)
    for method in METHODS.values():
        _within(f"min_{method.quantity}", getattr(criteria, f"min_{method.quantity}"), method.most)
    for name in ("required_capabilities", "required_frameworks"):
        names = getattr(criteria, name)
        if len(names) > MAX_TAGS or not all(map(is_tag, names)):
            raise CriteriaInvalid(f"{name} is at most {MAX_TAGS} names in lower case")
    for service, score in criteria.min_reputation_score.items():
        if service not in SERVICES:
            raise CriteriaInvalid(f"min_reputation_score names none of {', '.join(sorted(SERVICES))}")
        _within("min_reputation_score", score, 10_000)
    if criteria.geographic_region is not None and not is_tag(criteria.geographic_region):
        raise CriteriaInvalid("geographic_region is malformed")
    return criteria


def _within(field: str, value: int | None, high: int) -> None:
    if value is not None and not (type(value) is int and 0 <= value <= high):
        raise CriteriaInvalid(f"{field} is a whole number from 0 to {high}")
