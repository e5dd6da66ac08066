"""The fold: facts into the rows of one read model, in memory, then written in bulk with the cursor."""

from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg

from domain.kernel.fact import Fact

from .rows import Key, ReadModel, Row

R = TypeVar("R", bound=Row)

_SET_CURSOR = "UPDATE engine.cursors SET position = %s, updated_at = now() WHERE name = %s AND position = %s"


class CursorTaken(Exception):
    """Another worker has moved this projection's cursor: its rows stand and ours are dropped."""


def load(connection: psycopg.Connection[Any], model: ReadModel[R], keys: Sequence[Key]) -> dict[Key, R | None]:
    """The present rows of these keys; absent ones are None."""
    rows: dict[Key, R | None] = dict.fromkeys(keys)
    with connection.cursor() as cursor:
        cursor.execute(model.select_by_keys(), model.key_arrays(keys), prepare=True)
        for record in cursor:
            row = model.read(record)
            rows[model.key_of(row)] = row
    return rows


def store(
    connection: psycopg.Connection[Any], model: ReadModel[R], before: dict[Key, R | None], after: dict[Key, R | None]
) -> None:
    """Write the rows that changed and delete those that ended."""
    changed = [row for key, row in after.items() if row is not None and row is not before.get(key)]
    ended = [key for key, row in after.items() if row is None and before.get(key) is not None]
    if changed:
        connection.execute(model.upsert(), model.arrays(changed), prepare=True)
    if ended:
        connection.execute(model.delete_by_keys(), model.key_arrays(ended), prepare=True)


def apply(
    connection: psycopg.Connection[Any], model: ReadModel[Any], facts: Sequence[Fact], old: int, new: int
) -> None:
    """Fold a batch and advance the cursor from `old` to `new`, in one transaction: exactly once.

    Raises:
        CursorTaken: the cursor does not stand at `old`; nothing was written.
    """
    with connection.transaction():
        move_cursor(connection, model.name, old, new)
        keys = list(dict.fromkeys(key for fact in facts for key in model.keys(fact)))
        before = load(connection, model, keys) if keys else {}
        after = dict(before)
        model.fold(after, facts)
        store(connection, model, before, after)


def move_cursor(connection: psycopg.Connection[Any], name: str, old: int, new: int) -> None:
    """Compare-and-set of a cursor inside the caller's transaction; its row stays locked until the end.

    Raises:
        CursorTaken: it does not stand at `old`.
    """
    if connection.execute(_SET_CURSOR, (new, name, old), prepare=True).rowcount != 1:
        raise CursorTaken(name)
