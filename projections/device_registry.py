"""Read model of the device registry: every enrolled device."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from domain.device_registry.device import DEGRADED, OFFLINE, ONLINE, Device
from domain.device_registry.evidence import METHODS
from domain.device_registry.remeasurement import Remeasurement
from domain.device_registry.reputation import Reputation, Standing
from domain.device_registry.status import ACTIVE, RETIRED, SUSPENDED
from domain.kernel.fact import Fact

from .rows import Key, ReadModel, Row


class DeviceRow(Row, frozen=True):
    """A device that has enrolled, whatever its status.

    `evidence` holds the sums behind `reputation`: [good, bad] in billionths by service. `benchmark` is the evidence of
    what the device has measured of itself, with its signature; empty when it brought none. A device that is asked to
    measure again may answer until `remeasure_until`; `disputes` are what its last answer refuted of its claims.
    """

    device_id: UUID
    owner_id: UUID
    device_type: str
    region: str
    ed25519_pub: str
    x25519_pub: str
    ram_mb: int
    cpu_cores: int
    compute_score: int
    frameworks: list[str]
    capabilities: list[str]
    benchmark_id: str
    presence: str
    seen_at: datetime | None
    latency_ms: int | None
    reputation: dict[str, int]
    evidence: dict[str, list[int]]
    enrolled_at: datetime
    position: int
    status: str
    status_reason: str
    benchmark: dict[str, Any]
    matrix_mflops: int | None
    memory_mb_s: int | None
    disk_mb_s: int | None
    remeasure_until: datetime | None
    remeasure_seed: str
    disputes: list[dict[str, Any]]


class Devices(ReadModel[DeviceRow]):
    """Devices by id, from the facts of the device and of its reputations."""

    name = "devices"
    table = "read.devices"
    row = DeviceRow
    key = ("device_id",)
    listens = (
        Device.Enrolled,
        Device.KeyRotated,
        Device.Suspended,
        Device.Reinstated,
        Device.Retired,
        Device.CapabilitiesChanged,
        Device.Benchmarked,
        Device.EvidenceDropped,
        Device.WentOnline,
        Device.WentDegraded,
        Device.WentOffline,
        Device.LatencyClassChanged,
        Reputation.EvidenceRecorded,
        Remeasurement.Asked,
        Remeasurement.Answered,
        Remeasurement.Missed,
    )
    begins = (Device.Enrolled,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.event.device_id if fact.topic in _OF_OTHER_STREAMS else fact.stream,)

    def evolve(self, row: DeviceRow | None, fact: Fact, key: Key) -> DeviceRow | None:
        made: Any = fact.event
        if type(made) is Device.Enrolled:
            return _enrolled(made, fact.position)
        return None if row is None else _CHANGED[type(made)](row, made, fact.position)


READ_MODELS = (Devices(),)
_OTHER_STREAMS: tuple[type[Any], ...] = (
    Reputation.EvidenceRecorded,
    Remeasurement.Asked,
    Remeasurement.Answered,
    Remeasurement.Missed,
)
_OF_OTHER_STREAMS = frozenset(event.TOPIC for event in _OTHER_STREAMS)
_UNMEASURED: Final[dict[str, Any]] = {method.quantity: None for method in METHODS.values()}


def _enrolled(event: Device.Enrolled, position: int) -> DeviceRow:
    return DeviceRow(
        device_id=event.device_id,
        owner_id=event.owner_id,
        device_type=event.device_type,
        region=event.region,
        ed25519_pub=event.ed25519_pub,
        x25519_pub=event.x25519_pub,
        **msgspec.structs.asdict(event.capabilities),
        presence=OFFLINE,
        seen_at=None,
        latency_ms=None,
        reputation={},
        evidence={},
        enrolled_at=event.enrolled_at,
        position=position,
        status=ACTIVE,
        status_reason="",
        benchmark={},
        matrix_mflops=None,
        memory_mb_s=None,
        disk_mb_s=None,
        remeasure_until=None,
        remeasure_seed="",
        disputes=[],
    )


def _benchmarked(row: DeviceRow, event: Device.Benchmarked, at: int) -> DeviceRow:
    told = msgspec.to_builtins(event.evidence) | {"signature": event.signature}
    return replace(row, position=at, benchmark=told, **_UNMEASURED | event.evidence.quantities)


def _weighed(row: DeviceRow, event: Reputation.EvidenceRecorded, at: int) -> DeviceRow:
    standing = Standing(*row.evidence.get(event.service, (0, 0))).after(
        good=event.good, weight_bp=event.weight_bp, rule_version=event.rule_version
    )
    return replace(
        row,
        position=at,
        evidence=row.evidence | {event.service: [standing.good, standing.bad]},
        reputation=row.reputation | {event.service: standing.score_bp},
    )


def _capable(row: DeviceRow, event: Device.CapabilitiesChanged, at: int) -> DeviceRow:
    return replace(row, position=at, **msgspec.structs.asdict(event.capabilities))


def _asked(row: DeviceRow, event: Remeasurement.Asked, at: int) -> DeviceRow:
    return replace(row, position=at, remeasure_until=event.until, remeasure_seed=event.seed or row.remeasure_seed)


def _answered(row: DeviceRow, event: Remeasurement.Answered, at: int) -> DeviceRow:
    return replace(row, position=at, remeasure_until=None, disputes=msgspec.to_builtins(event.disputes))


def _in(status: str) -> Callable[[DeviceRow, Any, int], DeviceRow]:
    return lambda row, event, at: replace(row, position=at, status=status, status_reason=event.reason)


_CHANGED: Mapping[type[Any], Callable[[DeviceRow, Any, int], DeviceRow]] = {
    Device.CapabilitiesChanged: _capable,
    Device.Benchmarked: _benchmarked,
    Device.EvidenceDropped: lambda row, event, at: replace(row, position=at, benchmark={}, **_UNMEASURED),
    Remeasurement.Asked: _asked,
    Remeasurement.Answered: _answered,
    Remeasurement.Missed: lambda row, event, at: replace(row, position=at, remeasure_until=None),
    Device.KeyRotated: lambda row, event, at: replace(row, position=at, ed25519_pub=event.ed25519_pub),
    Device.Suspended: _in(SUSPENDED),
    Device.Reinstated: _in(ACTIVE),
    Device.Retired: _in(RETIRED),
    Device.WentOnline: lambda row, event, at: replace(row, position=at, presence=ONLINE, seen_at=event.seen_at),
    Device.WentDegraded: lambda row, event, at: replace(row, position=at, presence=DEGRADED, seen_at=event.seen_at),
    Device.WentOffline: lambda row, event, at: replace(row, position=at, presence=OFFLINE, seen_at=event.last_seen_at),
    Device.LatencyClassChanged: lambda row, event, at: replace(row, position=at, latency_ms=event.latency_ms),
    Reputation.EvidenceRecorded: _weighed,
}
"""The row after an event at a position. A table, for a device has many kinds of events and most are of the last."""
