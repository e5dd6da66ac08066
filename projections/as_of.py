"""As-of: any row, any read model and any aggregate as it was at a past position or time, by the same fold."""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from eventsourcing.persistence import StoredEvent

from domain.kernel import Aggregate, AggregateNotFound, Refusal
from domain.kernel.errors import PositionAhead
from domain.kernel.evolve import rehydrate
from domain.kernel.fact import Fact
from infrastructure.event_store.reader import MAX_STREAM_FACTS, LogReader, Record

from .fold import Fold
from .monitoring import ControlRow, Controls
from .rows import Key, ReadModel, Row

A = TypeVar("A", bound=Aggregate)
R = TypeVar("R", bound=Row)

MAX_FACTS = 2_000_000
"""How much history one question may fold, unless who asks it says less."""


class TooFarToFold(Refusal):
    """One as-of question folds a bounded number of facts; replay the log to that position instead."""

    status = 413


def position_at(connection: psycopg.Connection[Any], instant: datetime) -> int:
    """The position of the last fact recorded at or before an instant, 0 when there is none.

    A binary search: `recorded_at` never runs backwards.
    """
    low, high = 0, LogReader(connection).head()
    while low < high:
        middle = (low + high + 1) // 2
        (record,) = LogReader(connection).at([middle])
        if record.recorded_at <= instant:
            low = middle
        else:
            high = middle - 1
    return low


def row_at(
    connection: psycopg.Connection[Any], model: ReadModel[R], key: Key, position: int, *, most: int = MAX_FACTS
) -> R | None:
    """One row as it was after the fact at `position`; folds only its own streams where the model knows them.

    Raises:
        PositionAhead: the log has not come so far. TooFarToFold.
    """
    streams = model.streams_of(key)
    if streams is None:
        return _folded(connection, model, position, key.__eq__, most).get(key)
    check_reached(connection, position)
    records = _of_streams(connection, streams, position)
    facts = [record.fact() for record in records if record.topic in model.topics]
    fold = Fold(model, skipped=_skipped(connection, model)).add(facts, key.__eq__)
    row: R | None = fold.rows.get(key)
    return row


def rows_at(
    connection: psycopg.Connection[Any], model: ReadModel[R], position: int, *, most: int = MAX_FACTS
) -> dict[Key, R]:
    """A whole read model as it was after the fact at `position`, by key.

    Raises:
        PositionAhead: the log has not come so far. TooFarToFold.
    """
    return {key: row for key, row in _folded(connection, model, position, None, most).items() if row is not None}


def rows_of(
    connection: psycopg.Connection[Any],
    model: ReadModel[R],
    streams: Collection[UUID],
    position: int,
    *,
    most: int = MAX_FACTS,
) -> dict[Key, R]:
    """The rows that these streams make, by key, as they were after the fact at `position`.

    What other streams tell of the same rows is left out.

    Raises:
        PositionAhead: the log has not come so far. TooFarToFold.
    """
    fold = Fold(model, skipped=_skipped(connection, model))
    for facts in facts_of(connection, model.topics, streams, position, most=most):
        fold.add(facts)
    return {key: row for key, row in fold.rows.items() if row is not None}


def facts_of(
    connection: psycopg.Connection[Any],
    topics: Collection[str],
    streams: Collection[UUID],
    position: int,
    *,
    most: int = MAX_FACTS,
) -> Iterator[list[Fact]]:
    """The facts of some topics in some streams up to `position`, in batches in order of position.

    Raises:
        PositionAhead: the log has not come so far. TooFarToFold.
    """
    check_reached(connection, position)
    reader, after, read = LogReader(connection), 0, 0
    while records := reader.of_streams(streams, after=after, until=position):
        read += len(records)
        if read > most:
            raise TooFarToFold(f"more than {most} facts")
        yield [record.fact() for record in records if record.topic in topics]
        after = records[-1].position


def aggregate_at(connection: psycopg.Connection[Any], kind: type[A], stream: UUID, position: int) -> A:
    """An aggregate as it was after the fact at `position`.

    Raises:
        AggregateNotFound: it did not exist then. PositionAhead. TooFarToFold.
    """
    check_reached(connection, position)
    records = _of_streams(connection, [stream], position)
    found = rehydrate(stream, [StoredEvent(r.stream, r.version, r.topic, r.state) for r in records])
    if not isinstance(found, kind):
        raise AggregateNotFound(f"no {kind.__name__} {stream} at position {position}")
    return found


def _of_streams(connection: psycopg.Connection[Any], streams: Sequence[UUID], position: int) -> list[Record]:
    records = LogReader(connection).of_streams(streams, until=position)
    if len(records) >= MAX_STREAM_FACTS:  # the reader stops there, and half a stream is a lie
        raise TooFarToFold(f"{len(records)} facts of one stream")
    return records


def _folded(
    connection: psycopg.Connection[Any],
    model: ReadModel[R],
    position: int,
    takes: Callable[[Key], bool] | None,
    most: int,
) -> dict[Key, R | None]:
    check_reached(connection, position)
    fold = Fold(model, skipped=_skipped(connection, model))
    folded = 0
    for records in LogReader(connection).of_topics(model.topics, position):
        folded += len(records)
        if folded > most:
            raise TooFarToFold(f"more than {most} facts")
        fold.add([record.fact() for record in records], takes)
    return fold.rows


def check_reached(connection: psycopg.Connection[Any], position: int) -> None:
    """Raise PositionAhead for what has not come, or never was."""
    head = LogReader(connection).head()
    if not 0 <= position <= head:
        raise PositionAhead(f"position {position}; the newest fact is at {head}")


def _skipped(connection: psycopg.Connection[Any], model: ReadModel[Any]) -> frozenset[tuple[int, str]]:
    controls = Controls()
    with connection.cursor() as cursor:
        cursor.execute(controls.select_by_keys(), controls.key_arrays([model.name]))
        rows: list[ControlRow] = [controls.read(record) for record in cursor]
    return frozenset(rows[0].skipped) if rows else frozenset()
