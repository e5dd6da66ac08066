"""Dead letters: facts a read model could not fold, kept in order behind the one that failed, by row."""

from collections.abc import Sequence
from typing import Any

import psycopg

from infrastructure.database import Database

from .fold import Letter
from .rows import Key, ReadModel

_HELD = "SELECT DISTINCT key FROM engine.dead_letters WHERE cursor = %s"
_WRITE = (
    "INSERT INTO engine.dead_letters (cursor, position, key, poison, error, traceback, tried_at)"
    " SELECT %s, position, key, poison, error, traceback, %s FROM unnest(%s::bigint[], %s::text[], %s::boolean[],"
    " %s::text[], %s::text[]) AS given (position, key, poison, error, traceback)"
    " ON CONFLICT (cursor, key, position) DO UPDATE SET poison = excluded.poison, error = excluded.error,"
    " traceback = excluded.traceback, tried_at = excluded.tried_at"
)
_TRIED = "SELECT key, max(tried_at) FROM engine.dead_letters WHERE cursor = %s GROUP BY key"
_POSITIONS = "SELECT position FROM engine.dead_letters WHERE cursor = %s AND key = %s ORDER BY position"
_SET_ASIDE = "SELECT position FROM engine.dead_letters WHERE cursor IN (%s, 'rebuild:' || %s) AND key = %s"
_CLEAR = "DELETE FROM engine.dead_letters WHERE cursor = %s AND key = %s"


def held_keys(connection: psycopg.Connection[Any], cursor: str, model: ReadModel[Any]) -> set[Key]:
    """The rows that wait behind a letter."""
    return {model.key_from(text) for (text,) in connection.execute(_HELD, (cursor,))}


def write(
    connection: psycopg.Connection[Any],
    cursor: str,
    model: ReadModel[Any],
    letters: Sequence[Letter],
    tried_at: int = 0,
) -> None:
    """Set letters aside, in the caller's transaction."""
    if letters:
        columns = zip(
            *((x.position, model.key_text(x.key), x.poison, _clean(x.error), _clean(x.traceback)) for x in letters),
            strict=True,
        )
        connection.execute(_WRITE, (cursor, tried_at, *map(list, columns)))


def tried(connection: psycopg.Connection[Any], cursor: str) -> dict[str, int]:
    """By row: the position of the newest retry that was obeyed."""
    return dict(connection.execute(_TRIED, (cursor,)).fetchall())


def positions(connection: psycopg.Connection[Any], cursor: str, key: str) -> list[int]:
    """The facts set aside for one row, in order."""
    return [position for (position,) in connection.execute(_POSITIONS, (cursor, key))]


def clear(connection: psycopg.Connection[Any], cursor: str, key: str) -> None:
    """Forget the letters of one row."""
    connection.execute(_CLEAR, (cursor, key))


class DeadLetters:
    """The positions of the facts that a read model, or its rebuild, has set aside for one row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, name: str, key: str) -> set[int]:
        with self._database.reader.connection() as connection:
            return {position for (position,) in connection.execute(_SET_ASIDE, (name, name, key))}


def _clean(text: str) -> str:
    return text.replace("\x00", "\\0")
