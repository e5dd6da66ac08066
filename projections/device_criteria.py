"""Device criteria as SQL over `read.devices`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from domain.device_registry.criteria import DeviceCriteria
from domain.device_registry.device import ONLINE
from domain.device_registry.reputation import NEWCOMER_BP
from domain.device_registry.status import ACTIVE


class Asked(NamedTuple):
    """One criterion as part of a WHERE: its name, constant SQL, and the parameters in it."""

    criterion: str
    text: str
    parameters: dict[str, Any]


_AT_LEAST = {
    "min_ram_mb": "ram_mb >= %(min_ram_mb)s",
    "min_cpu_cores": "cpu_cores >= %(min_cpu_cores)s",
    "min_compute_score": "compute_score >= %(min_compute_score)s",
    "max_latency_ms": "latency_ms <= %(max_latency_ms)s",
    "geographic_region": "region = %(geographic_region)s",
    "min_matrix_mflops": "matrix_mflops >= %(min_matrix_mflops)s",
    "min_memory_mb_s": "memory_mb_s >= %(min_memory_mb_s)s",
    "min_disk_mb_s": "disk_mb_s >= %(min_disk_mb_s)s",
}
_CONTAINS = {
    "required_capabilities": "capabilities @> %(required_capabilities)s::jsonb",
    "required_frameworks": "frameworks @> %(required_frameworks)s::jsonb",
}


def asked(criteria: DeviceCriteria) -> list[Asked]:
    """The criteria that ask for something, as SQL over `read.devices`. Only active devices meet any."""
    # Constants here and below, so that the planner sees the partial index.
    found = [Asked("status", f"status = '{ACTIVE}'", {})]
    for name, text in _AT_LEAST.items():
        if (value := getattr(criteria, name)) is not None:
            found.append(Asked(name, text, {name: value}))
    for name, text in _CONTAINS.items():
        if value := getattr(criteria, name):
            found.append(Asked(name, text, {name: msgspec.json.encode(value).decode()}))
    if criteria.min_reputation_score:
        found.append(_reputed(criteria.min_reputation_score))
    if criteria.availability_required:
        found.append(Asked("availability_required", f"presence = '{ONLINE}'", {}))
    return found


def _reputed(least: Mapping[str, int]) -> Asked:
    """A comparison a service: a subquery over the asked ones costs ten times as much a row."""
    texts: list[str] = []
    parameters: dict[str, Any] = {}
    for number, (service, score) in enumerate(sorted(least.items())):
        name, bound = f"reputed_{number}", f"least_{number}"
        texts.append(f"coalesce((reputation ->> %({name})s)::bigint, {NEWCOMER_BP}) >= %({bound})s")
        parameters |= {name: service, bound: score}
    return Asked("min_reputation_score", " AND ".join(texts), parameters)


def unmet(criteria: DeviceCriteria) -> Asked:
    """That at least one of the criteria is not met, as one condition."""
    conditions = asked(criteria)
    text = " AND ".join(f"({condition.text})" for condition in conditions)
    return Asked("unmet", f"({text}) IS NOT TRUE", parameters_of(conditions))


def parameters_of(conditions: Sequence[Asked]) -> dict[str, Any]:
    """The parameters of all conditions."""
    return {name: value for condition in conditions for name, value in condition.parameters.items()}
