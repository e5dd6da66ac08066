"""Rebuild: a read model folded anew into a shadow table, then swapped with the live one in one transaction."""

import re
from typing import Any

import psycopg
from psycopg import sql

from infrastructure.event_store.reader import LogReader

from .batch import Skipped, apply
from .rows import ReadModel
from .slots import REBUILD, Slot, advance, shadow_of

SWAP_LOCK_TIMEOUT_MS = 2_000
MAX_LAST_FACTS = 5_000
"""How far behind a rebuild may be when it swaps; the rest is folded while the live cursors are locked."""

_LIVE = "SELECT position FROM engine.cursors WHERE name = %s ORDER BY partition FOR UPDATE"
_TAKE_OVER = (
    "UPDATE engine.cursors SET position = %s, version = %s, fence = fence + 1, updated_at = clock_timestamp()"
    " WHERE name = %s"
)
_INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s AND tablename = %s"


def begin(connection: psycopg.Connection[Any], model: ReadModel[Any], asked_at: int) -> None:
    """Make an empty shadow table and its cursor, or start over when there is one already."""
    shadow = sql.Identifier(*shadow_of(model).split("."))
    with connection.transaction():
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(shadow))
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(shadow, sql.Identifier(*model.table.split(".")))
        )
        connection.execute("DELETE FROM engine.dead_letters WHERE cursor = %s", (REBUILD + model.name,))
        connection.execute(
            "INSERT INTO engine.cursors (name, version) VALUES (%s, %s) ON CONFLICT (name, partition)"
            " DO UPDATE SET position = 0, version = excluded.version, fence = engine.cursors.fence + 1",
            (REBUILD + model.name, model.version),
        )
        connection.execute(
            "UPDATE engine.cursors SET rebuilt_at = greatest(rebuilt_at, %s) WHERE name = %s", (asked_at, model.name)
        )


def swap(connection: psycopg.Connection[Any], slot: Slot, skipped: Skipped) -> bool:
    """Put a rebuild that has caught up in the place of the live table; False when it has not, or readers hold on.

    Readers see the old table until the commit and the new one after it. Reads never go back: the shadow is
    brought to where the live cursors are, which stay locked until then.

    Raises:
        CursorTaken: the rebuild is another worker's by now.
    """
    began_at = slot.position
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{SWAP_LOCK_TIMEOUT_MS}ms",))
            newest = max((at for (at,) in connection.execute(_LIVE, (slot.model.name,))), default=0)
            if newest - slot.position > MAX_LAST_FACTS:
                return False
            advance(connection, slot, slot.position)
            if newest > slot.position:
                batch = LogReader(connection).after(slot.position, MAX_LAST_FACTS, newest)
                apply(connection, slot, batch.facts(slot.model.topics), batch.end, skipped)
            _exchange(connection, slot.model)
            connection.execute(_TAKE_OVER, (slot.position, slot.model.version, slot.model.name))
            connection.execute("DELETE FROM engine.cursors WHERE name = %s", (slot.cursor,))
            connection.execute("DELETE FROM engine.dead_letters WHERE cursor = %s", (slot.model.name,))
            connection.execute(
                "UPDATE engine.dead_letters SET cursor = %s WHERE cursor = %s", (slot.model.name, slot.cursor)
            )
        return True
    except psycopg.errors.LockNotAvailable:
        slot.position = began_at
        return False


def _exchange(connection: psycopg.Connection[Any], model: ReadModel[Any]) -> None:
    """The shadow takes the name, the indexes' names and the grants of the live table, which goes."""
    schema, table = model.table.split(".")
    shadow_schema, shadow = shadow_of(model).split(".")
    old_names = {_shape(text): name for name, text in connection.execute(_INDEXES, (schema, table))}
    new_names = {_shape(text): name for name, text in connection.execute(_INDEXES, (shadow_schema, shadow))}
    names = {"old": sql.Identifier(schema, table), "new": sql.Identifier(shadow_schema, shadow)}
    connection.execute(sql.SQL("DROP TABLE {old}").format(**names))
    connection.execute(sql.SQL("ALTER TABLE {new} RENAME TO {name}").format(**names, name=sql.Identifier(table)))
    connection.execute(
        sql.SQL("ALTER TABLE {moved} SET SCHEMA {schema}").format(
            moved=sql.Identifier(shadow_schema, table), schema=sql.Identifier(schema)
        )
    )
    for shape, name in new_names.items():
        if shape in old_names:
            connection.execute(
                sql.SQL("ALTER INDEX {} RENAME TO {}").format(
                    sql.Identifier(schema, name), sql.Identifier(old_names[shape])
                )
            )
    connection.execute(sql.SQL("GRANT SELECT ON {old} TO village_reader, village_writer").format(**names))


def _shape(indexdef: str) -> str:
    """An index definition without the names that differ between table and shadow."""
    return re.sub(r"INDEX \S+ ON \S+", "INDEX ON", indexdef)
