"""The fold: facts into the rows of one read model, in memory; what fails is set aside, with all behind it."""

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from domain.kernel.fact import Fact

from .rows import Key, ReadModel, Row

R = TypeVar("R", bound=Row)

MAX_TRACEBACK = 4_000


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

    def add(self, touched: Iterable[tuple[Fact, Key]]) -> "Fold":
        """Fold facts into the rows they touch, in the order given; a failure holds back its row only."""
        evolve, rows, held, skipped = self.model.evolve, self.rows, self.held, self.skipped
        for fact, key in touched:
            if skipped and (fact.position, self.model.key_text(key)) in skipped:
                continue
            if held and key in held:
                self.letters.append(Letter(fact.position, key))
                continue
            try:
                rows[key] = evolve(rows.get(key), fact, key)
            except Exception as error:
                held.add(key)
                self.letters.append(Letter.of(fact, key, error))
        return self


def touched_by(
    model: ReadModel[Any], facts: Iterable[Fact], takes: Callable[[Key], bool] | None = None
) -> list[tuple[Fact, Key]]:
    """Which rows which facts touch, in order; only the keys that `takes` wants."""
    if takes is None:
        return [(fact, key) for fact in facts for key in model.keys(fact)]
    return [(fact, key) for fact in facts for key in model.keys(fact) if takes(key)]


def load(
    connection: psycopg.Connection[Any], model: ReadModel[R], keys: Sequence[Key], table: str | None = None
) -> dict[Key, R | None]:
    """The present rows of these keys; absent ones are None."""
    rows: dict[Key, R | None] = dict.fromkeys(keys)
    if not keys:
        return rows
    with connection.cursor() as cursor:
        cursor.execute(_statement(model.select_by_keys, table), model.key_arrays(keys), prepare=True)
        for record in cursor:
            row = model.read(record)
            rows[model.key_of(row)] = row
    return rows


def store(
    connection: psycopg.Connection[Any],
    model: ReadModel[R],
    before: dict[Key, R | None],
    after: dict[Key, R | None],
    table: str | None = None,
) -> None:
    """Write the rows that changed and delete those that ended."""
    changed = [row for key, row in after.items() if row is not None and row is not before.get(key)]
    ended = [key for key, row in after.items() if row is None and before.get(key) is not None]
    if changed:
        connection.execute(_statement(model.upsert, table), model.arrays(changed), prepare=True)
    if ended:
        connection.execute(_statement(model.delete_by_keys, table), model.key_arrays(ended), prepare=True)


@lru_cache(1_024)
def _statement(compose: Callable[[str | None], sql.Composed], table: str | None) -> bytes:
    """A statement of a read model, composed once."""
    return compose(table).as_bytes()
