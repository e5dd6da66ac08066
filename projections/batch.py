"""One batch for one slot: folded in memory and written with its cursor in one transaction, exactly once."""

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from domain.kernel.fact import Fact
from infrastructure.event_store.reader import LogReader

from . import letters
from .fold import Fold, Letter, load, store, touched_by
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
    touched = touched_by(slot.model, facts, slot.takes)
    try:
        fold = _written(_folded, connection, slot, touched, new, skipped)
    except _NOT_STORABLE:
        fold = _written(_one_by_one, connection, slot, touched, new, skipped)
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
            touched = touched_by(slot.model, [record.fact() for record in records], key.__eq__)
            try:
                with connection.transaction():
                    fold = _folded(connection, again, touched, skipped)
            except _NOT_STORABLE:
                fold = _one_by_one(connection, again, touched, skipped)
            held, left = fold.held, left + fold.letters
        letters.write(connection, slot.cursor, slot.model, left, tried_at=asked_at)
    slot.held = held
    return left


def _written(
    folded: Callable[..., Fold],
    connection: psycopg.Connection[Any],
    slot: Slot,
    touched: Sequence[tuple[Fact, Key]],
    new: int,
    skipped: Skipped,
) -> Fold:
    with connection.transaction():
        advance(connection, slot, new)
        fold = folded(connection, slot, touched, skipped)
        letters.write(connection, slot.cursor, slot.model, fold.letters)
    return fold


def _folded(
    connection: psycopg.Connection[Any], slot: Slot, touched: Sequence[tuple[Fact, Key]], skipped: Skipped
) -> Fold:
    before = load(connection, slot.model, list(dict.fromkeys(key for _, key in touched)), slot.table)
    fold = Fold(slot.model, dict(before), set(slot.held), skipped).add(touched)
    store(connection, slot.model, before, fold.rows, slot.table)
    return fold


def _one_by_one(
    connection: psycopg.Connection[Any], slot: Slot, touched: Sequence[tuple[Fact, Key]], skipped: Skipped
) -> Fold:
    """The same batch a fact and a row at a time, to find the fact whose row cannot be stored."""
    before = load(connection, slot.model, list(dict.fromkeys(key for _, key in touched)), slot.table)
    whole = Fold(slot.model, dict(before), set(slot.held), skipped)
    for fact, key in touched:
        was = whole.rows.get(key)
        whole.add([(fact, key)])
        try:
            with connection.transaction():
                store(connection, slot.model, {key: was}, {key: whole.rows.get(key)}, slot.table)
        except _NOT_STORABLE as error:
            whole.rows[key] = was
            whole.held.add(key)
            whole.letters.append(Letter.of(fact, key, error))
    return whole
