"""The query port of the device registry: which devices meet criteria, and why the others do not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import set_json_loads

from domain.device_registry.criteria import DeviceCriteria, Mismatch, mismatches
from infrastructure.database import Database

from .device_criteria import Asked, asked, parameters_of, unmet
from .device_registry import DeviceRow, Devices

MAX_CANDIDATES = 10_000
"""The most devices one query answers."""

MAX_EXPLAINED = 100
"""Of how many devices one query tells why they do not match."""


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
