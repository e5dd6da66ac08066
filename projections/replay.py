"""Replay: read models rebuilt from the log alone, and compared with the live ones row by row."""

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg

from infrastructure.event_store.reader import LogReader

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
    """Rebuild every read model from the log at its own cursor and compare it with the live rows.

    Log, cursors and rows are read in one snapshot. At most 1,000 differences are listed.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursors = dict(connection.execute("SELECT name, position FROM engine.cursors").fetchall())
        ends = {model.name: cursors.get(model.name, 0) for model in models}
        rebuilt, facts = _rebuild(LogReader(connection), models, ends)
        differences: list[Difference] = []
        for model in models:
            live = {model.key_of(row := model.read(record)): row for record in connection.execute(model.select())}
            differences += _differences(model.name, live, rebuilt[model.name])
    return Comparison(facts, sum(map(len, rebuilt.values())), differences[:MAX_DIFFERENCES])


def _rebuild(
    reader: LogReader, models: Sequence[ReadModel[Any]], ends: dict[str, int]
) -> tuple[dict[str, dict[Key, Any]], int]:
    wanted = frozenset[str]().union(*(model.topics for model in models))
    rows: dict[str, dict[Key, Any]] = {model.name: {} for model in models}
    folded = 0
    for batch in reader.all(max(ends.values(), default=0)):
        facts = batch.facts(wanted)
        folded += len(facts)
        for model in models:
            model.fold(
                rows[model.name],
                [fact for fact in facts if fact.topic in model.topics and fact.position <= ends[model.name]],
            )
    present = {name: {key: row for key, row in found.items() if row is not None} for name, found in rows.items()}
    return present, folded


def _differences(model: str, live: dict[Key, Row], rebuilt: dict[Key, Row]) -> list[Difference]:
    keys = [*live, *(key for key in rebuilt if key not in live)]
    return [
        Difference(model, key, live.get(key), rebuilt.get(key)) for key in keys if live.get(key) != rebuilt.get(key)
    ]
