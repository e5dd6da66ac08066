"""Facts folded in memory for one slot and written with its cursor in one transaction, exactly once."""

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from domain.kernel.fact import Fact
from infrastructure.event_store.reader import LogReader

from . import letters
from .fold import Cell, Fold, Letter, Load, Meanwhile, load, store
from .rows import Key
from .slots import Slot, advance

MAX_LETTERS_A_READ = 1_000
MAX_ROWS = 50_000
"""How many rows of one read model wait in memory, less than a batch more."""

NOT_STORABLE = (psycopg.DataError, psycopg.IntegrityError, psycopg.NotSupportedError)
Skipped = frozenset[tuple[int, str]]


class Pending:
    """What has been folded for a slot from its cursor up to `end` and is not yet written.

    Rows are loaded outside the transaction that writes them: its compare-and-set of the cursor holds only if nobody
    has written since.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.end = slot.position
        self.fold = Fold(slot.model, set(slot.held))

    def is_of(self, slot: Slot) -> bool:
        """Whether it goes on from where the slot is, under the same lease."""
        return (self.slot.fence, self.slot.position) == (slot.fence, slot.position)

    def is_full(self, most: int) -> bool:
        """Whether it should be written now: it spans so many facts, or holds as many rows as memory is for."""
        return self.end - self.slot.position >= most or len(self.fold.cells) >= MAX_ROWS

    def add(
        self,
        connection: psycopg.Connection[Any],
        facts: Sequence[Fact],
        end: int,
        skipped: Skipped,
        takes: Callable[[Key], bool] | None = None,
    ) -> "Pending":
        """Fold facts, in order, after all that were added before."""
        slot = self.slot
        self.fold.skipped = skipped
        self.fold.add(facts, takes or slot.takes, _loader(connection, slot))
        self.end = end
        return self

    def write(self, connection: psycopg.Connection[Any], meanwhile: Meanwhile = None) -> list[Letter]:
        """Write rows, letters and cursor; answers what had to be set aside.

        Raises:
            CursorTaken: the slot is another worker's by now; nothing was written.
            psycopg.Error: one of NOT_STORABLE: some row cannot be stored; nothing was written.
        """
        with connection.transaction():
            advance(connection, self.slot, self.end)
            self.store(connection, meanwhile)
            letters.write(connection, self.slot.cursor, self.slot.model, self.fold.letters)
        self.slot.position = self.end
        self.slot.held = self.fold.held
        return self.fold.letters

    def settle(
        self, connection: psycopg.Connection[Any], facts: Sequence[Fact], meanwhile: Meanwhile = None
    ) -> list[Letter]:
        """As `write`, of one batch; a row that cannot be stored becomes a dead letter in the same transaction, and so
        do later facts of that row.

        Raises:
            CursorTaken: the slot is another worker's by now; nothing was written.
        """
        try:
            return self.write(connection, meanwhile)
        except NOT_STORABLE:
            with connection.transaction():
                advance(connection, self.slot, self.end)
                fold = _one_by_one(connection, self.slot, facts, self.fold.skipped, self.slot.takes)
                letters.write(connection, self.slot.cursor, self.slot.model, fold.letters)
            self.slot.position = self.end
            self.slot.held = fold.held
            return fold.letters

    def follower(self) -> "Pending":
        """What goes on from here once this is written. It knows the rows that were loaded and changed: facts come back
        to them, and seldom to those that were new."""
        after = Pending(self.slot)
        kept = [(at, cell) for at, cell in self.fold.cells.items() if cell.stored is not None and cell.row is not None]
        if len(kept) <= MAX_ROWS // 2:
            after.fold.cells = {at: Cell(cell.key, cell.row, cell.row) for at, cell in kept}
        return after

    def store(self, connection: psycopg.Connection[Any], meanwhile: Meanwhile = None) -> None:
        """Write the rows only."""
        store(connection, self.slot.model, self.fold.cells.values(), self.slot.table, meanwhile)


def apply(
    connection: psycopg.Connection[Any], slot: Slot, facts: Sequence[Fact], new: int, skipped: Skipped = frozenset()
) -> list[Letter]:
    """Fold a batch into a slot's rows and advance its cursor to `new`; answers what had to be set aside.

    A fact that cannot be folded, or whose row cannot be stored, becomes a dead letter. Facts that cannot be read, or
    whose keys cannot be told, stop the slot.

    Raises:
        CursorTaken: the slot is another worker's by now; nothing was written.
    """
    return Pending(slot).add(connection, facts, new, skipped).settle(connection, facts)


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
            facts = [record.fact() for record in records]
            pending = Pending(again).add(connection, facts, slot.position, skipped, key.__eq__)
            try:
                with connection.transaction():
                    pending.store(connection)
                fold = pending.fold
            except NOT_STORABLE:
                fold = _one_by_one(connection, again, facts, skipped, key.__eq__)
            held, left = fold.held, left + fold.letters
        letters.write(connection, slot.cursor, slot.model, left, tried_at=asked_at)
    slot.held = held
    return left


def _one_by_one(
    connection: psycopg.Connection[Any],
    slot: Slot,
    facts: Sequence[Fact],
    skipped: Skipped,
    takes: Callable[[Key], bool] | None,
) -> Fold:
    """The same batch a fact and a row at a time, to find the fact whose row cannot be stored."""
    fold = Fold(slot.model, set(slot.held), skipped)
    for cell, fact in fold.touch(facts, takes, _loader(connection, slot)):
        was = cell.row
        fold.turn([(cell, fact)])
        try:
            with connection.transaction():
                store(connection, slot.model, [Cell(cell.key, was, cell.row)], slot.table)
        except NOT_STORABLE as error:
            cell.row = was
            fold.held.add(cell.key)
            fold.letters.append(Letter.of(fact, cell.key, error))
    return fold


def _loader(connection: psycopg.Connection[Any], slot: Slot) -> Load:
    return lambda cells: load(connection, slot.model, cells, slot.table)
