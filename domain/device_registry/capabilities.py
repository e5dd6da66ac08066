"""What a device can do: bounded, normalised, and compared by content."""

import re

from domain.kernel import Refusal, Value

MAX_RAM_MB = 16 * 1024 * 1024
MAX_CPU_CORES = 4_096
MAX_COMPUTE_SCORE = 1_000_000_000
MAX_TAGS = 32
MAX_BENCHMARK_ID = 64
TAG = r"[a-z0-9][a-z0-9_.+-]{0,31}"
"""The form of a framework or capability name, a device type and a region."""

_TAG = re.compile(TAG)
_BENCHMARK_ID = re.compile(r"[A-Za-z0-9_.:+-]{1,64}")


class CapabilitiesInvalid(Refusal):
    """Capabilities lie within their bounds and are named in lower case, each once, at most 32 of a kind."""


class DeviceTypeInvalid(Refusal):
    """A device type is 1 to 32 lower-case letters, digits and _.+-."""


class RegionInvalid(Refusal):
    """A region is 1 to 32 lower-case letters, digits and _.+-."""


class Capabilities(Value, frozen=True):
    """Memory in MiB, cores, compute score in milli-units of the named benchmark, and two sorted sets of names."""

    ram_mb: int
    cpu_cores: int
    compute_score: int
    frameworks: list[str]
    capabilities: list[str]
    benchmark_id: str


def checked(given: Capabilities) -> Capabilities:
    """The capabilities with their names sorted, so that equal ones are recorded as equal.

    Raises:
        CapabilitiesInvalid: names the field.
    """
    _within("ram_mb", given.ram_mb, 1, MAX_RAM_MB)
    _within("cpu_cores", given.cpu_cores, 1, MAX_CPU_CORES)
    _within("compute_score", given.compute_score, 0, MAX_COMPUTE_SCORE)
    if not _BENCHMARK_ID.fullmatch(given.benchmark_id):
        raise CapabilitiesInvalid(f"benchmark_id is 1 to {MAX_BENCHMARK_ID} letters, digits and _.:+-")
    return Capabilities(
        ram_mb=given.ram_mb,
        cpu_cores=given.cpu_cores,
        compute_score=given.compute_score,
        frameworks=_names("frameworks", given.frameworks),
        capabilities=_names("capabilities", given.capabilities),
        benchmark_id=given.benchmark_id,
    )


def is_tag(text: str) -> bool:
    """Whether a text has the form of a name."""
    return _TAG.fullmatch(text) is not None


def check_kind(device_type: str, region: str) -> None:
    """Raises DeviceTypeInvalid, RegionInvalid."""
    if not is_tag(device_type):
        raise DeviceTypeInvalid("device_type is malformed")
    if not is_tag(region):
        raise RegionInvalid("region is malformed")


def _within(field: str, value: int, low: int, high: int) -> None:
    if not (type(value) is int and low <= value <= high):
        raise CapabilitiesInvalid(f"{field} is a whole number from {low} to {high}")


def _names(field: str, names: list[str]) -> list[str]:
    if len(names) > MAX_TAGS:
        raise CapabilitiesInvalid(f"{field} names at most {MAX_TAGS}")
    if len(set(names)) != len(names):
        raise CapabilitiesInvalid(f"{field} names one thing twice")
    if not all(map(is_tag, names)):
        raise CapabilitiesInvalid(f"a name in {field} is 1 to 32 lower-case letters, digits and _.+-")
    return sorted(names)
