"""Replay: read models rebuilt from the log alone, and compared with the live ones row by row."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import psycopg

from domain.kernel.fact import Fact
from infrastructure.event_store.reader import LogReader

from .fold import Fold
from .monitoring import ControlRow, Controls
from .rows import Key, ReadModel, Row

MAX_DIFFERENCES = 1_000


class Difference(msgspec.Struct, frozen=True):
    """A row that is not what the log says it should be; None stands for no row."""

    model: str
    key: Key
    live: Row | None
    rebuilt: Row | None


class Comparison(msgspec.Struct, frozen=True):
    """What a rebuild of every read model found."""

    facts: int
    rows: int
    differences: list[Difference]


def compare(connection: psycopg.Connection[Any], models: Sequence[ReadModel[Any]]) -> Comparison:
    """Rebuild every read model from the log at its own cursors and compare it with the live rows.

    Log, cursors and rows are read in one snapshot. At most 1,000 differences are listed.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursors = connection.execute("SELECT name, partition, position FROM engine.cursors").fetchall()
        ends = {(name, partition): position for name, partition, position in cursors}
        controls = {row.projection: row for row in map(Controls().read, connection.execute(Controls().select()))}
        folds = [
            _PartFold(model, part, ends.get((model.name, part), 0), controls.get(model.name))
            for model in models
            for part in range(model.partitions)
        ]
        facts = _fold_all(LogReader(connection), folds)
        differences: list[Difference] = []
        for model in models:
            live = {model.key_of(row := model.read(record)): row for record in connection.execute(model.select())}
            rebuilt = {key: row for fold in folds if fold.model is model for key, row in fold.rows() if row is not None}
            differences += _differences(model.name, live, rebuilt)
    rows = sum(row is not None for fold in folds for _, row in fold.rows())
    return Comparison(facts, rows, differences[:MAX_DIFFERENCES])


def replayed(
    connection: psycopg.Connection[Any], models: Sequence[ReadModel[Any]], until: int
) -> Iterator[tuple[ReadModel[Any], dict[Key, Any]]]:
    """Every read model as it was at a position, folded from the log alone in one scan."""
    controls = {row.projection: row for row in map(Controls().read, connection.execute(Controls().select()))}
    folds = [
        _PartFold(model, part, until, controls.get(model.name)) for model in models for part in range(model.partitions)
    ]
    _fold_all(LogReader(connection), folds)
    for model in models:
        yield model, {key: row for fold in folds if fold.model is model for key, row in fold.rows() if row is not None}


class _PartFold:
    """One partition of one read model, folded in memory up to its cursor."""

    def __init__(self, model: ReadModel[Any], part: int, end: int, control: ControlRow | None) -> None:
        self.model = model
        self.end = end
        self._part = part
        self._fold = Fold(model, skipped=frozenset(control.skipped if control else ()))

    def add(self, facts: Sequence[Fact]) -> None:
        own = [fact for fact in facts if fact.position <= self.end and fact.topic in self.model.topics]
        takes = None if self.model.partitions == 1 else lambda key: self.model.partition_of(key) == self._part
        self._fold.add(own, takes)

    def rows(self) -> Iterable[tuple[Key, Any]]:
        return self._fold.rows.items()


def _fold_all(reader: LogReader, folds: Sequence[_PartFold]) -> int:
    wanted = frozenset[str]().union(*(fold.model.topics for fold in folds))
    folded = 0
    for batch in reader.all(max((fold.end for fold in folds), default=0)):
        facts = batch.facts(wanted)
        folded += len(facts)
        for fold in folds:
            fold.add(facts)
    return folded


def _differences(model: str, live: dict[Key, Row], rebuilt: dict[Key, Row]) -> list[Difference]:
    keys = [*live, *(key for key in rebuilt if key not in live)]
    return [
        Difference(model, key, live.get(key), rebuilt.get(key)) for key in keys if live.get(key) != rebuilt.get(key)
    ]
