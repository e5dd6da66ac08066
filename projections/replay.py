"""Replay: read models rebuilt from the log alone, and compared with the live ones row by row."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import psycopg

from domain.kernel.fact import Fact
from infrastructure.event_store.reader import LogReader

from .as_of import check_reached
from .fold import Fold
from .monitoring import ControlRow, Controls
from .rows import Key, ReadModel, Row

MAX_DIFFERENCES = 1_000
Progress = Callable[[int, int], None]


def _untold(done: int, total: int) -> None:
    """Nobody looks on."""


class Difference(msgspec.Struct, frozen=True):
    """A row that is not what the log says it should be; None stands for no row."""

    model: str
    key: Key
    live: Row | None
    rebuilt: Row | None


class Comparison(msgspec.Struct, frozen=True):
    """What a rebuild of every read model found. `moved` rows have changed since, so nothing tells what they were."""

    facts: int
    rows: int
    differences: list[Difference]
    moved: int = 0


def compare(
    connection: psycopg.Connection[Any],
    models: Sequence[ReadModel[Any]],
    until: int | None = None,
    progress: Progress = _untold,
) -> Comparison:
    """Rebuild every read model from the log at its own cursors and compare it with the live rows.

    Given `until`, rebuild to that position and compare the rows that no later fact has touched: what is live of
    these is what was live then. Log, cursors and rows are read in one snapshot. At most 1,000 differences are listed.
    `progress` is called with the position that is folded and the last one.

    Raises:
        PositionAhead: the log has not come so far.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        if until is not None:
            check_reached(connection, until)
        cursors = connection.execute("SELECT name, partition, position FROM engine.cursors").fetchall()
        ends = {(name, partition): position for name, partition, position in cursors}
        controls = {row.projection: row for row in map(Controls().read, connection.execute(Controls().select()))}
        folds = [
            _PartFold(model, part, ends.get((model.name, part), 0), controls.get(model.name), until)
            for model in models
            for part in range(model.partitions)
        ]
        facts = _fold_all(LogReader(connection), folds, progress)
        differences: list[Difference] = []
        for model in models:
            live = {model.key_of(row := model.read(record)): row for record in connection.execute(model.select())}
            own = [fold for fold in folds if fold.model is model]
            rebuilt = {key: row for fold in own for key, row in fold.rows() if row is not None}
            moved = set[Key]().union(*(fold.moved for fold in own))
            differences += _differences(model.name, live, rebuilt, moved)
    rows = sum(row is not None for fold in folds for _, row in fold.rows())
    return Comparison(facts, rows, differences[:MAX_DIFFERENCES], sum(len(fold.moved) for fold in folds))


def replayed(
    connection: psycopg.Connection[Any], models: Sequence[ReadModel[Any]], until: int, progress: Progress = _untold
) -> Iterator[tuple[ReadModel[Any], dict[Key, Any]]]:
    """Every read model as it was at a position, folded from the log alone in one scan.

    Raises:
        PositionAhead: the log has not come so far.
    """
    check_reached(connection, until)
    controls = {row.projection: row for row in map(Controls().read, connection.execute(Controls().select()))}
    folds = [
        _PartFold(model, part, until, controls.get(model.name)) for model in models for part in range(model.partitions)
    ]
    _fold_all(LogReader(connection), folds, progress)
    for model in models:
        yield model, {key: row for fold in folds if fold.model is model for key, row in fold.rows() if row is not None}


class _PartFold:
    """One partition of one read model, folded in memory up to its cursor.

    Given an earlier `until`, it is folded up to there, and `moved` are the keys of the facts between.
    """

    def __init__(
        self, model: ReadModel[Any], part: int, end: int, control: ControlRow | None, until: int | None = None
    ) -> None:
        self.model = model
        self.end = end
        self.moved = set[Key]()
        self.until = end if until is None else min(until, end)
        self._part = part
        self._fold = Fold(model, skipped=frozenset(control.skipped if control else ()))

    def add(self, facts: Sequence[Fact]) -> None:
        own = [fact for fact in facts if fact.position <= self.end and fact.topic in self.model.topics]
        takes = None if self.model.partitions == 1 else lambda key: self.model.partition_of(key) == self._part
        self._fold.add([fact for fact in own if fact.position <= self.until], takes)
        later = (key for fact in own if fact.position > self.until for key in self.model.keys(fact))
        self.moved.update(filter(takes, later) if takes else later)

    def rows(self) -> Iterable[tuple[Key, Any]]:
        return self._fold.rows.items()


def _fold_all(reader: LogReader, folds: Sequence[_PartFold], progress: Progress) -> int:
    wanted = frozenset[str]().union(*(fold.model.topics for fold in folds))
    until = max((fold.until for fold in folds), default=0)
    end = max((fold.end for fold in folds), default=0)
    folded = 0
    for batch in reader.all(end):
        facts = batch.facts(wanted)
        folded += sum(fact.position <= until for fact in facts)
        for fold in folds:
            fold.add(facts)
        progress(batch.end, end)
    return folded


def _differences(model: str, live: dict[Key, Row], rebuilt: dict[Key, Row], moved: set[Key]) -> list[Difference]:
    keys = [*live, *(key for key in rebuilt if key not in live)]
    return [
        Difference(model, key, live.get(key), rebuilt.get(key))
        for key in keys
        if key not in moved and live.get(key) != rebuilt.get(key)
    ]
