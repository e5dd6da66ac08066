"""One batch for one slot: folded in memory and written with its cursor in one transaction, exactly once."""

from collections.abc import Sequence
from typing import Any

import psycopg

from domain.kernel.fact import Fact
from infrastructure.event_store.reader import LogReader

from . import letters
from .fold import Fold, Letter, load, store
from .rows import Key
from .slots import Slot, advance

MAX_LETTERS_A_READ = 1_000
_NOT_STORABLE = (psycopg.DataError, psycopg.IntegrityError, psycopg.NotSupportedError)
Skipped = frozenset[tuple[int, str]]


def apply(
    connection: psycopg.Connection[Any], slot: Slot, facts: Sequence[Fact], new: int, skipped: Skipped = frozenset()
) -> list[Letter]:
    """Fold a batch into a slot's rows and advance its cursor to `new`; answers what had to be set aside.

    A fact that cannot be folded, or whose row cannot be stored, becomes a dead letter in the same transaction, and
    so do later facts of that row. Facts that cannot be read, or whose keys cannot be told, stop the slot.

    Raises:
        CursorTaken: the slot is another worker's by now; nothing was written.
    """
    with connection.transaction():
        advance(connection, slot, new)
        fold = _folded(connection, slot, facts, skipped)
        letters.write(connection, slot.cursor, slot.model, fold.letters)
    slot.position = new
    slot.held = fold.held
    return fold.letters


def retry(
    connection: psycopg.Connection[Any], slot: Slot, key_text: str, asked_at: int, skipped: Skipped
) -> list[Letter]:
    """Fold the letters of one row again, in order; answers those that are still set aside.

    Raises:
        CursorTaken: the slot is another worker's by now; nothing was written.
    """
    key = slot.model.key_from(key_text)
    held = slot.held - {key}
    left: list[Letter] = []
    with connection.transaction():
        advance(connection, slot, slot.position)
        positions = letters.positions(connection, slot.cursor, key_text)
        letters.clear(connection, slot.cursor, key_text)
        for start in range(0, len(positions), MAX_LETTERS_A_READ):
            records = LogReader(connection).at(positions[start : start + MAX_LETTERS_A_READ])
            again = Slot(**{name: getattr(slot, name) for name in Slot.__slots__} | {"held": held})
            fold = _folded(connection, again, [record.fact() for record in records], skipped, frozenset({key}))
            held, left = fold.held, left + fold.letters
        letters.write(connection, slot.cursor, slot.model, left, tried_at=asked_at)
    slot.held = held
    return left


def _folded(
    connection: psycopg.Connection[Any],
    slot: Slot,
    facts: Sequence[Fact],
    skipped: Skipped,
    only: frozenset[Key] | None = None,
) -> Fold:
    model = slot.model
    keys = dict.fromkeys(key for fact in facts for key in model.keys(fact) if slot.owns(key))
    if only is None and model.partitions > 1 and not slot.rebuilding:
        only = frozenset(keys)
    before = load(connection, model, list(keys if only is None else only), slot.table)
    fold = Fold(model, dict(before), set(slot.held), skipped).add(facts, only)
    try:
        with connection.transaction():
            store(connection, model, before, fold.rows, slot.table)
        return fold
    except _NOT_STORABLE:
        return _one_by_one(connection, slot, facts, skipped, before)


def _one_by_one(
    connection: psycopg.Connection[Any],
    slot: Slot,
    facts: Sequence[Fact],
    skipped: Skipped,
    before: dict[Key, Any],
) -> Fold:
    """The same batch a fact and a row at a time, to find the fact whose row cannot be stored."""
    model = slot.model
    whole = Fold(model, dict(before), set(slot.held), skipped)
    for fact in facts:
        for key in model.keys(fact):
            if key not in before:
                continue
            was = whole.rows.get(key)
            whole.add([fact], frozenset({key}))
            try:
                with connection.transaction():
                    store(connection, model, {key: was}, {key: whole.rows.get(key)}, slot.table)
            except _NOT_STORABLE as error:
                whole.rows[key] = was
                whole.held.add(key)
                whole.letters.append(Letter.of(fact, key, error))
    return whole
