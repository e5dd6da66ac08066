"""Read model of the device registry: every enrolled device, and the query for those that meet criteria."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import set_json_loads

from domain.device_registry.criteria import DeviceCriteria, Mismatch, mismatches
from domain.device_registry.device import DEGRADED, OFFLINE, ONLINE, Device
from domain.device_registry.evidence import METHODS
from domain.device_registry.remeasurement import Remeasurement
from domain.device_registry.reputation import Reputation, Standing
from domain.device_registry.status import ACTIVE, RETIRED, SUSPENDED
from domain.kernel.fact import Fact
from infrastructure.database import Database

from .device_criteria import Asked, asked, parameters_of, unmet
from .rows import Key, ReadModel, Row

MAX_CANDIDATES = 10_000
"""The most devices one query answers."""

MAX_EXPLAINED = 100
"""Of how many devices one query tells why they do not match."""


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
        return (fact.event.device_id if isinstance(fact.event, _OF_OTHER_STREAMS) else fact.stream,)

    def evolve(self, row: DeviceRow | None, fact: Fact, key: Key) -> DeviceRow | None:
        if isinstance(fact.event, Device.Enrolled):
            return _enrolled(fact.event, fact.position)
        if row is None:
            return None
        return msgspec.structs.replace(row, position=fact.position, **_CHANGES[type(fact.event)](row, fact.event))


READ_MODELS = (Devices(),)
_OF_OTHER_STREAMS = (Reputation.EvidenceRecorded, Remeasurement.Asked, Remeasurement.Answered, Remeasurement.Missed)


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


def _benchmarked(row: DeviceRow, event: Device.Benchmarked) -> dict[str, Any]:
    told = msgspec.to_builtins(event.evidence) | {"signature": event.signature}
    return {"benchmark": told, **_UNMEASURED, **event.evidence.quantities}


def _weighed(row: DeviceRow, event: Reputation.EvidenceRecorded) -> dict[str, Any]:
    standing = Standing(*row.evidence.get(event.service, (0, 0))).after(
        good=event.good, weight_bp=event.weight_bp, rule_version=event.rule_version
    )
    return {
        "evidence": row.evidence | {event.service: [standing.good, standing.bad]},
        "reputation": row.reputation | {event.service: standing.score_bp},
    }


def _asked(row: DeviceRow, event: Remeasurement.Asked) -> dict[str, Any]:
    return {"remeasure_until": event.until, "remeasure_seed": event.seed or row.remeasure_seed}


_CHANGES: Mapping[type[Any], Callable[[DeviceRow, Any], dict[str, Any]]] = {
    Device.CapabilitiesChanged: lambda row, event: msgspec.structs.asdict(event.capabilities),
    Device.Benchmarked: _benchmarked,
    Device.EvidenceDropped: lambda row, event: {"benchmark": {}, **_UNMEASURED},
    Remeasurement.Asked: _asked,
    Remeasurement.Answered: lambda row, event: {
        "remeasure_until": None,
        "disputes": msgspec.to_builtins(event.disputes),
    },
    Remeasurement.Missed: lambda row, event: {"remeasure_until": None},
    Device.KeyRotated: lambda row, event: {"ed25519_pub": event.ed25519_pub},
    Device.Suspended: lambda row, event: {"status": SUSPENDED, "status_reason": event.reason},
    Device.Reinstated: lambda row, event: {"status": ACTIVE, "status_reason": event.reason},
    Device.Retired: lambda row, event: {"status": RETIRED, "status_reason": event.reason},
    Device.WentOnline: lambda row, event: {"presence": ONLINE, "seen_at": event.seen_at},
    Device.WentDegraded: lambda row, event: {"presence": DEGRADED, "seen_at": event.seen_at},
    Device.WentOffline: lambda row, event: {"presence": OFFLINE, "seen_at": event.last_seen_at},
    Device.LatencyClassChanged: lambda row, event: {"latency_ms": event.latency_ms},
    Reputation.EvidenceRecorded: _weighed,
}
"""What an event changes in a row. A table, for a device has many kinds of events and most are of the last."""


class Survey(msgspec.Struct, frozen=True):
    """Which devices meet criteria at a position, and how many of all devices fail each criterion that was asked.

    `measured` are those that brought evidence for what they declare.
    """

    device_ids: list[UUID]
    measured: set[UUID]
    position: int
    all_devices: int
    refused: dict[str, int]


class DeviceIndex:
    """Answers criteria from the read model; the query port of everybody who selects devices."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._model = Devices()

    def eligible_devices(
        self, criteria: DeviceCriteria, *, after: UUID | None = None, limit: int = MAX_CANDIDATES
    ) -> tuple[list[DeviceRow], int]:
        """The devices that match by rising id, and the position they were known at, from one snapshot."""
        conditions = asked(criteria)
        with self._snapshot() as connection:
            position = self._position(connection)
            records = _matching(connection, self._model.select(), conditions, after, limit)
        # JSON gives the very types of the row, and thousands of rows are no rare answer.
        return [DeviceRow(*record) for record in records], position

    def survey(self, criteria: DeviceCriteria, *, limit: int = MAX_CANDIDATES) -> Survey:
        """The ids of the devices that match, rising, and why the others do not, from one snapshot."""
        conditions = asked(criteria)
        ids = sql.SQL("SELECT device_id, benchmark <> '{{}}' FROM {}").format(self._table)
        with self._snapshot() as connection:
            position = self._position(connection)
            records = _matching(connection, ids, conditions, None, limit)
            total, *failing = self._counted(connection, conditions)
        names = [condition.criterion for condition in conditions]
        return Survey(
            device_ids=[device_id for device_id, _ in records],
            measured={device_id for device_id, evident in records if evident},
            position=position,
            all_devices=total,
            refused={name: number for name, number in zip(names, failing, strict=True) if number},
        )

    def owners(self, device_ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """Whose each of these devices is."""
        query = "SELECT device_id, owner_id FROM read.devices WHERE device_id = ANY(%s)"
        with self._database.reader.connection() as connection:
            return dict(connection.execute(query, (list(device_ids),)).fetchall())

    def explain(
        self, criteria: DeviceCriteria, *, after: UUID | None = None, limit: int = MAX_EXPLAINED
    ) -> list[tuple[DeviceRow, list[Mismatch]]]:
        """Devices that do not match, by rising id, each with every reason why."""
        assert limit <= MAX_EXPLAINED, f"at most {MAX_EXPLAINED} devices are explained at once"
        with self._snapshot() as connection:
            records = _matching(connection, self._model.select(), [unmet(criteria)], after, limit)
        rows = [DeviceRow(*record) for record in records]
        return [(row, mismatches(criteria, row)) for row in rows]

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(*self._model.table.split("."))

    @contextmanager
    def _snapshot(self) -> Iterator[psycopg.Connection[Any]]:
        with self._database.reader.connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection

    def _position(self, connection: psycopg.Connection[Any]) -> int:
        """How far the read model has come, in this snapshot."""
        query = "SELECT coalesce(min(position), 0) FROM engine.cursors WHERE name = %s"
        ((position,),) = connection.execute(query, (self._model.name,)).fetchall()
        return int(position)

    def _counted(self, connection: psycopg.Connection[Any], conditions: Sequence[Asked]) -> Sequence[int]:
        """How many devices there are, and how many fail each condition."""
        counts = [f"count(*) FILTER (WHERE ({condition.text}) IS NOT TRUE)" for condition in conditions]
        query = sql.SQL("SELECT {counts} FROM {table}").format(
            counts=_trusted(", ".join(["count(*)", *counts])), table=self._table
        )
        (record,) = connection.execute(query, parameters_of(conditions)).fetchall()
        return [int(number) for number in record]


def _matching(
    connection: psycopg.Connection[Any],
    select: sql.Composable,
    conditions: Sequence[Asked],
    after: UUID | None,
    limit: int,
) -> list[tuple[Any, ...]]:
    assert 1 <= limit <= MAX_CANDIDATES, f"at most {MAX_CANDIDATES} devices are answered at once"
    texts = [condition.text for condition in conditions] + ([] if after is None else ["device_id > %(after)s"])
    query = sql.SQL("{select} WHERE {where} ORDER BY device_id LIMIT %(limit)s").format(
        select=select, where=_trusted(" AND ".join(texts) or "true")
    )
    with connection.cursor(binary=True) as cursor:
        set_json_loads(msgspec.json.decode, cursor)
        return cursor.execute(query, parameters_of(conditions) | {"limit": limit, "after": after}).fetchall()


def _trusted(text: str) -> sql.SQL:
    """SQL put together from this module's constants; values travel as parameters."""
    return sql.SQL(text)
