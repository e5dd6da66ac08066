"""The fold: facts into the rows of one read model, in memory; what fails is set aside, with all behind it."""

import gc
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from threading import Lock
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import set_json_dumps, set_json_loads

from domain.kernel.fact import Fact

from .rows import Key, ReadModel, Row

R = TypeVar("R", bound=Row)

MAX_TRACEBACK = 4_000
COPY_FROM = 50
"""How many new rows make it worth the two round trips of a COPY."""
_lock = Lock()
_suspended: list[bool] = []
"""Whether garbage was collected before, for each that is in `uncollected` now: several threads may be."""

Touched = Mapping[Key, Sequence[Fact]]
"""Facts by the row they touch, each row's in order."""


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
    """One pass over facts in order. Keys in `held` wait behind a letter; `skipped` facts are left out for good."""

    model: ReadModel[Any]
    rows: dict[Key, Any]
    held: set[Key] = field(default_factory=set)
    skipped: frozenset[tuple[int, str]] = frozenset()
    letters: list[Letter] = field(default_factory=list)

    def add(self, touched: Touched) -> "Fold":
        """Fold facts into the rows they touch; a failure holds back its row only."""
        evolve, rows, held = self.model.evolve, self.rows, self.held
        for key, facts in touched.items():
            waiting = iter(self._not_skipped(key, facts) if self.skipped else facts)
            if not (held and key in held):
                row = rows.get(key)
                try:
                    for fact in waiting:
                        row = evolve(row, fact, key)
                except Exception as error:
                    held.add(key)
                    self.letters.append(Letter.of(fact, key, error))
                rows[key] = row
            for fact in waiting:
                self.letters.append(Letter(fact.position, key))
        return self

    def _not_skipped(self, key: Key, facts: Sequence[Fact]) -> list[Fact]:
        text = self.model.key_text(key)
        return [fact for fact in facts if (fact.position, text) not in self.skipped]


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: a batch makes no cycles, and looking for some took half of its time."""
    with _lock:
        _suspended.append(gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            if _suspended.pop():
                gc.enable()


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


def touched_by(
    model: ReadModel[Any], facts: Iterable[Fact], takes: Callable[[Key], bool] | None = None
) -> dict[Key, list[Fact]]:
    """Which rows the facts touch; only the keys that `takes` wants."""
    touched: dict[Key, list[Fact]] = defaultdict(list)
    keys = model.keys
    for fact in facts:
        for key in keys(fact):
            touched[key].append(fact)
    return touched if takes is None else {key: found for key, found in touched.items() if takes(key)}


def load(
    connection: psycopg.Connection[Any], model: ReadModel[R], keys: Sequence[Key], table: str | None = None
) -> dict[Key, R | None]:
    """The present rows of these keys; absent ones are None."""
    rows: dict[Key, R | None] = dict.fromkeys(keys)
    if not keys:
        return rows
    with connection.cursor(binary=True) as cursor:
        set_json_loads(msgspec.json.decode, cursor)
        cursor.execute(_statement(model.select_by_keys, table), model.key_arrays(keys), prepare=True)
        for row in map(model.read, cursor.fetchall()):
            rows[model.key_of(row)] = row
    return rows


def store(
    connection: psycopg.Connection[Any],
    model: ReadModel[R],
    before: Mapping[Key, R | None],
    after: Mapping[Key, R | None],
    table: str | None = None,
) -> None:
    """Write the rows that are new or changed and delete those that ended. What `before` does not tell is no row."""
    new, changed, ended = list[R](), list[R](), list[Key]()
    if not before:
        new, after = [row for row in after.values() if row is not None], {}
    for key, row in after.items():
        was = before.get(key)
        if row is not None and was is None:
            new.append(row)
        elif row is None and was is not None:
            ended.append(key)
        elif row is not None and row is not was:
            changed.append(row)
    if len(new) >= COPY_FROM:
        _copy(connection, model, new, table)
    else:
        changed += new
    if changed:
        connection.execute(_statement(model.upsert, table), model.arrays(changed), prepare=True)
    if ended:
        connection.execute(_statement(model.delete_by_keys, table), model.key_arrays(ended), prepare=True)


def _copy(connection: psycopg.Connection[Any], model: ReadModel[R], rows: Sequence[R], table: str | None) -> None:
    with connection.cursor() as cursor:
        set_json_dumps(msgspec.json.encode, cursor)
        with cursor.copy(_statement(model.copy, table)) as copy:
            copy.set_types(model.types)
            for row in map(msgspec.structs.astuple, rows):
                copy.write_row(row)


@lru_cache(1_024)
def _statement(compose: Callable[[str | None], sql.Composed], table: str | None) -> bytes:
    """A statement of a read model, composed once."""
    return compose(table).as_bytes()
