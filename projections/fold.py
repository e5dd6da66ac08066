"""The fold: facts into the rows of one read model, in memory; what fails is set aside, with all behind it."""

import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import set_json_loads
from psycopg.types.string import BytesBinaryDumper

from domain.kernel.fact import Fact

from .rows import Key, ReadModel, Row

R = TypeVar("R", bound=Row)

MAX_TRACEBACK = 4_000
COPY_FROM = 50
"""How many new rows make it worth the two round trips of a COPY."""
COPY_ROWS = 5_000
"""How many rows are made ready for COPY at once."""


class Cell(msgspec.Struct, gc=False):
    """The place of one row: as it is stored, and as it has become. None is no row."""

    key: Key
    stored: Any = None
    row: Any = None


Load = Callable[[Sequence[Cell]], None]
"""Looks up the stored rows of cells."""
Meanwhile = Callable[[], None] | None
"""What to begin as soon as the server has all rows to store, or soon will."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A fact that was not folded into a row: the poison itself, or one of the same row behind it."""

    position: int
    key: Key
    error: str = ""
    traceback: str = ""

    @property
    def poison(self) -> bool:
        return bool(self.error)

    @classmethod
    def of(cls, fact: Fact, key: Key, error: Exception) -> "Letter":
        """The letter of a fact that failed."""
        lines = traceback.format_exception(error)
        return cls(fact.position, key, repr(error)[:MAX_TRACEBACK], "".join(lines)[-MAX_TRACEBACK:])


@dataclass(slots=True)
class Fold:
    """Passes over facts in order. Keys in `held` wait behind a letter; `skipped` facts are left out for good."""

    model: ReadModel[Any]
    held: set[Key] = field(default_factory=set)
    skipped: frozenset[tuple[int, str]] = frozenset()
    letters: list[Letter] = field(default_factory=list)
    cells: dict[Hashable, Cell] = field(default_factory=dict)
    """The cells by the handles of their keys."""

    @property
    def rows(self) -> dict[Key, Any]:
        """The rows by key; None where a row has ended or never began."""
        return {cell.key: cell.row for cell in self.cells.values()}

    def add(
        self, facts: Iterable[Fact], takes: Callable[[Key], bool] | None = None, load: Load | None = None
    ) -> "Fold":
        """Fold facts into the rows they touch, of the keys that `takes` wants."""
        self.turn(self.touch(facts, takes, load))
        return self

    def touch(
        self, facts: Iterable[Fact], takes: Callable[[Key], bool] | None = None, load: Load | None = None
    ) -> list[tuple[Cell, Fact]]:
        """Each fact with each cell it touches. Cells that were not known are made; `load` sees those no fact begins.

        When a key cannot be told or a row not be loaded, no cell is left that was made here.
        """
        cells, keys, handle, begins = self.cells, self.model.keys, self.model.handle, self.model.beginnings
        touched: list[tuple[Cell, Fact]] = []
        made: list[Cell] = []
        unknown: list[Cell] = []
        try:
            for fact in facts:
                for key in keys(fact):
                    at = handle(key)
                    cell = cells.get(at)
                    if cell is None:
                        if takes is not None and not takes(key):
                            continue
                        cell = cells[at] = Cell(key)
                        (made if fact.topic in begins else unknown).append(cell)
                    touched.append((cell, fact))
            if load is not None and unknown:
                load(unknown)
        except BaseException:
            for cell in (*made, *unknown):
                del cells[handle(cell.key)]
            raise
        return touched

    def turn(self, touched: Iterable[tuple[Cell, Fact]]) -> None:
        """Evolve the rows; a failure holds back its row only."""
        evolve, held, skipped = self.model.evolve, self.held, self.skipped
        for cell, fact in touched:
            if skipped and (fact.position, self.model.key_text(cell.key)) in skipped:
                continue
            if held and cell.key in held:
                self.letters.append(Letter(fact.position, cell.key))
                continue
            try:
                cell.row = evolve(cell.row, fact, cell.key)
            except Exception as error:
                held.add(cell.key)
                self.letters.append(Letter.of(fact, cell.key, error))


def by_topic(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    """Facts by topic, each topic's in order."""
    found: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        found[fact.topic].append(fact)
    return found


def of_topics(facts: Mapping[str, list[Fact]], topics: Collection[str], after: int) -> list[Fact]:
    """The facts of these topics after a position, in order."""
    parts = [facts[topic] for topic in topics if topic in facts]
    own = parts[0] if len(parts) == 1 else sorted(chain.from_iterable(parts), key=attrgetter("position"))
    return own if not own or own[0].position > after else [fact for fact in own if fact.position > after]


def load(
    connection: psycopg.Connection[Any], model: ReadModel[R], cells: Sequence[Cell], table: str | None = None
) -> None:
    """Fill cells with the rows that are stored; where none is they stay as they are."""
    found = {model.handle(cell.key): cell for cell in cells}
    with connection.cursor(binary=True) as cursor:
        set_json_loads(msgspec.json.decode, cursor)
        cursor.execute(
            _statement(model.select_by_keys, table), model.key_arrays([cell.key for cell in cells]), prepare=True
        )
        for row in map(model.read, cursor.fetchall()):
            cell = found[model.handle(model.key_of(row))]
            cell.stored = cell.row = row


def store(
    connection: psycopg.Connection[Any],
    model: ReadModel[R],
    cells: Iterable[Cell],
    table: str | None = None,
    meanwhile: Meanwhile = None,
) -> None:
    """Write the rows that are new or changed and delete those that ended."""
    new, changed, ended = list[R](), list[R](), list[Key]()
    for cell in cells:
        row, stored = cell.row, cell.stored
        if row is stored:
            continue
        if stored is None:
            new.append(row)
        elif row is None:
            ended.append(cell.key)
        else:
            changed.append(row)
    if len(new) >= COPY_FROM:
        _copy(connection, model, new, table, meanwhile)
    else:
        changed += new
    if changed:
        if meanwhile is not None:
            meanwhile()
        connection.execute(_statement(model.upsert, table), model.arrays(changed), prepare=True)
    if ended:
        connection.execute(_statement(model.delete_by_keys, table), model.key_arrays(ended), prepare=True)


def _copy(
    connection: psycopg.Connection[Any],
    model: ReadModel[R],
    rows: Sequence[R],
    table: str | None,
    meanwhile: Meanwhile,
) -> None:
    with connection.cursor() as cursor:
        cursor.adapters.register_dumper(bytes, BytesBinaryDumper)
        with cursor.copy(_statement(model.copy, table)) as copy:
            copy.set_types(model.copied_types)
            for start in range(0, len(rows), COPY_ROWS):
                for record in model.copied(rows[start : start + COPY_ROWS]):
                    copy.write_row(record)
            if meanwhile is not None:
                meanwhile()


@lru_cache(1_024)
def _statement(compose: Callable[[str | None], sql.Composed], table: str | None) -> bytes:
    """A statement of a read model, composed once."""
    return compose(table).as_bytes()
