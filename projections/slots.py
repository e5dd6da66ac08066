"""Slots: which partitions of which read models a worker folds, by lease and fencing token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from .letters import held_keys
from .rows import Key, ReadModel

LEASE_S = 5.0
REBUILD = "rebuild:"
"""A cursor of this prefix belongs to a rebuild: it folds into the shadow table."""

_SEEN = (
    "INSERT INTO engine.workers (owner, seen_at) VALUES (%s, clock_timestamp())"
    " ON CONFLICT (owner) DO UPDATE SET seen_at = excluded.seen_at"
)
_GONE = "DELETE FROM engine.workers WHERE seen_at < clock_timestamp() - make_interval(secs => %s)"
_WORKERS = "SELECT count(*) FROM engine.workers"
_RENEW = (
    "UPDATE engine.cursors SET leased_until = clock_timestamp() + make_interval(secs => %s)"
    " WHERE owner = %s AND name = ANY(%s) RETURNING name, partition, position, version, fence"
)
_CLAIM = (
    "WITH free AS (SELECT name, partition FROM engine.cursors WHERE name = ANY(%s) AND owner IS DISTINCT FROM %s"
    " AND leased_until < clock_timestamp() ORDER BY name, partition LIMIT %s FOR UPDATE SKIP LOCKED)"
    " UPDATE engine.cursors AS c SET owner = %s, fence = c.fence + 1,"
    " leased_until = clock_timestamp() + make_interval(secs => %s) FROM free"
    " WHERE c.name = free.name AND c.partition = free.partition"
    " RETURNING c.name, c.partition, c.position, c.version, c.fence"
)
_RELEASE = (
    "UPDATE engine.cursors AS c SET owner = NULL, leased_until = 'epoch' FROM unnest(%s::text[], %s::int[])"
    " AS given (name, partition) WHERE c.name = given.name AND c.partition = given.partition AND c.owner = %s"
)
_BEGIN = (
    "INSERT INTO engine.cursors (name, partition, version) SELECT * FROM unnest(%s::text[], %s::int[], %s::int[])"
    " ON CONFLICT DO NOTHING"
)
_MOVE = (
    "UPDATE engine.cursors SET position = %s, updated_at = clock_timestamp()"
    " WHERE name = %s AND partition = %s AND position = %s AND fence = %s"
)


class CursorTaken(Exception):
    """Another worker holds or has moved this cursor: its rows stand and ours are dropped."""


@dataclass(slots=True)
class Slot:
    """One partition of one read model, held under a lease. `table` is the shadow's during a rebuild."""

    model: ReadModel[Any]
    cursor: str
    partition: int
    position: int
    version: int
    fence: int
    table: str
    held: set[Key] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"{self.cursor}/{self.partition}"

    @property
    def rebuilding(self) -> bool:
        return self.cursor.startswith(REBUILD)

    def owns(self, key: Key) -> bool:
        """Whether a row is folded here; a rebuild folds every partition."""
        return self.rebuilding or self.model.partition_of(key) == self.partition

    @property
    def takes(self) -> Callable[[Key], bool] | None:
        """Which keys are folded here; None for all."""
        return None if self.rebuilding or self.model.partitions == 1 else self.owns


def shadow_of(model: ReadModel[Any]) -> str:
    """The table a rebuild folds into."""
    return f"scratch.{model.name}_v{model.version}"


class Lease:
    """One worker's share of the slots. Call `slots` about once a second: it renews, claims and gives back."""

    def __init__(self, owner: str, models: Sequence[ReadModel[Any]], *, lease_s: float = LEASE_S) -> None:
        self.owner = owner
        self.lease_s = lease_s
        self._models = {model.name: model for model in models}
        self._names = [*self._models, *(REBUILD + name for name in self._models)]
        self._held: dict[str, Slot] = {}
        self._begun = False

    def slots(self, connection: psycopg.Connection[Any]) -> list[Slot]:
        """The slots this worker holds now, its fair share of all."""
        with connection.transaction():
            if not self._begun:
                self._begin(connection)
            connection.execute(_SEEN, (self.owner,))
            connection.execute(_GONE, (self.lease_s,))
            workers = _one(connection.execute(_WORKERS))
            total = _one(connection.execute("SELECT count(*) FROM engine.cursors WHERE name = ANY(%s)", (self._names,)))
            share = -(-total // max(workers, 1))
            mine = connection.execute(_RENEW, (self.lease_s, self.owner, self._names)).fetchall()
            if len(mine) < share:
                wanted = (self._names, self.owner, share - len(mine), self.owner, self.lease_s)
                mine += connection.execute(_CLAIM, wanted).fetchall()
            surplus = sorted(mine)[share:]
            if surplus:
                self._release(connection, [(name, partition) for name, partition, *_ in surplus])
            self._held = {slot.name: slot for slot in self._kept(connection, sorted(mine)[:share])}
        self._begun = True
        return list(self._held.values())

    def release(self, connection: psycopg.Connection[Any]) -> None:
        """Give everything back at once, so that others need not wait for the lease to end."""
        with connection.transaction():
            self._release(connection, [(slot.cursor, slot.partition) for slot in self._held.values()])
            connection.execute("DELETE FROM engine.workers WHERE owner = %s", (self.owner,))
        self._held = {}

    def _begin(self, connection: psycopg.Connection[Any]) -> None:
        parts = [
            (model.name, part, model.version) for model in self._models.values() for part in range(model.partitions)
        ]
        if parts:
            connection.execute(_BEGIN, [list(column) for column in zip(*parts, strict=True)])

    def _release(self, connection: psycopg.Connection[Any], slots: Sequence[tuple[str, int]]) -> None:
        if slots:
            names, partitions = zip(*slots, strict=True)
            connection.execute(_RELEASE, (list(names), list(partitions), self.owner))

    def _kept(self, connection: psycopg.Connection[Any], rows: Sequence[tuple[Any, ...]]) -> list[Slot]:
        """Slots with what is known of them; those held before keep what they learned, the others ask."""
        slots = []
        for cursor, partition, position, version, fence in rows:
            model = self._models[cursor.removeprefix(REBUILD)]
            table = shadow_of(model) if cursor.startswith(REBUILD) else model.table
            slot = Slot(model, cursor, partition, position, version, fence, table)
            before = self._held.get(slot.name)
            slot.held = (
                before.held
                if before is not None and before.fence == fence
                else {key for key in held_keys(connection, cursor, model) if slot.owns(key)}
            )
            slots.append(slot)
        return slots


def advance(connection: psycopg.Connection[Any], slot: Slot, new: int) -> None:
    """Compare-and-set of a slot's cursor inside the caller's transaction; its row stays locked until the end.

    Raises:
        CursorTaken: the cursor moved, or the lease went to another worker (a higher fencing token).
    """
    moved = connection.execute(_MOVE, (new, slot.cursor, slot.partition, slot.position, slot.fence), prepare=True)
    if moved.rowcount != 1:
        raise CursorTaken(slot.name)


def _one(cursor: psycopg.Cursor[Any]) -> int:
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])
