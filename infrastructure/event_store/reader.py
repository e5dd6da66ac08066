"""The log reader: facts in order of position, in batches that never end inside a command."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from domain.kernel.fact import Envelope, Fact
from domain.kernel.mapper import codec_of
from domain.kernel.write import MAX_EVENTS_PER_COMMAND
from infrastructure.archive import archived_states

_COLUMNS = (
    "position, stream, version, topic, state, uuid_send(event_id) || uuid_send(command_id) ||"
    " uuid_send(correlation_id) || coalesce(uuid_send(causation_id), ''), actor, recorded_at"
)
_AFTER = f"SELECT {_COLUMNS} FROM log.events WHERE position > %b AND position <= %b ORDER BY position LIMIT %b"
_REST = (
    f"SELECT {_COLUMNS} FROM log.events WHERE position > %b AND position <= %b AND command_id = %b ORDER BY position"
)
_STREAMS = (
    f"SELECT {_COLUMNS} FROM log.events WHERE stream = ANY(%b::uuid[]) AND position > %b AND position <= %b"
    " ORDER BY position LIMIT %b"
)
_TOPICS = (
    f"SELECT {_COLUMNS} FROM log.events WHERE position > %b AND position <= %b AND topic = ANY(%b::text[])"
    " ORDER BY position LIMIT %b"
)
_AT = f"SELECT {_COLUMNS} FROM log.events WHERE position = ANY(%b::bigint[]) ORDER BY position"
_CORRELATED = f"SELECT {_COLUMNS} FROM log.events WHERE correlation_id = %b ORDER BY position LIMIT %b"
MAX_POSITION = 2**62
MAX_STREAM_FACTS = 100_000


class _Row(NamedTuple):
    position: int
    stream: UUID
    version: int
    topic: str
    state: bytes
    ids: bytes
    actor: str
    recorded_at: datetime


class Record(_Row, Envelope):
    """A row of the log, not yet decoded; an archived state has been brought back."""

    __slots__ = ()

    def fact(self) -> Fact:
        """The row decoded.

        Raises:
            UnreadableEvent: the topic is unknown or the state does not fit it.
        """
        (fact,) = _decoded([self], (self.topic,))
        return fact


class _Events(dict[str, Callable[[UUID, int, bytes, datetime], Any]]):
    """How the events of each topic are decoded, looked up once a batch."""

    def __missing__(self, topic: str) -> Callable[[UUID, int, bytes, datetime], Any]:
        return self.setdefault(topic, codec_of(topic).event)


def _decoded(rows: Iterable[tuple[Any, ...]], topics: Collection[str]) -> list[Fact]:
    event = _Events()
    return [
        Fact(
            position, stream, version, topic,
            event[topic](stream, version, state, recorded_at),
            ids, actor, recorded_at,
        )
        for position, stream, version, topic, state, ids, actor, recorded_at in rows
        if topic in topics
    ]  # fmt: skip


_record = partial(tuple.__new__, Record)
_STATE = itemgetter(Record._fields.index("state"))


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows after a position, whole commands only. `end` is the position to go on from."""

    start: int
    end: int
    records: list[Record]

    def facts(self, topics: Collection[str]) -> list[Fact]:
        """The facts of these topics, decoded."""
        return _decoded(self.records, topics)


class Facts(NamedTuple):
    """The facts of some topics in the rows after a position, whole commands only; and of how many rows in all."""

    end: int
    rows: int
    facts: list[Fact]


class LogReader:
    """Reads the log over a connection the caller owns (it may be inside the caller's transaction)."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def head(self) -> int:
        """The position of the newest fact, 0 for an empty log."""
        row = self._connection.execute("SELECT position FROM log.events ORDER BY position DESC LIMIT 1").fetchone()
        return 0 if row is None else int(row[0])

    def after(self, position: int, limit: int = 1_000, until: int = MAX_POSITION) -> Batch:
        """Up to `limit` rows after a position, and the rest of the last one's command (at most 4,096 more)."""
        rows = self._after(position, limit, until)
        return Batch(position, rows[-1][0] if rows else position, list(map(_record, rows)))

    def facts_after(self, position: int, limit: int, topics: Collection[str]) -> Facts:
        """The facts of these topics of what `after` reads."""
        rows = self._after(position, limit, MAX_POSITION)
        return Facts(rows[-1][0] if rows else position, len(rows), _decoded(rows, topics))

    def all(self, until: int, start: int = 0, limit: int = 2_000) -> Iterator[Batch]:
        """Batches from `start` to a position that exists already."""
        position = start
        while position < until and (batch := self.after(position, limit, until)).records:
            yield batch
            position = batch.end

    def at(self, positions: Collection[int]) -> list[Record]:
        """The rows at these positions, in order."""
        return self._select(_AT, list(positions))

    def correlated(self, correlation_id: UUID, limit: int) -> list[Record]:
        """The first rows that share a correlation id, in order."""
        return self._select(_CORRELATED, correlation_id, limit)

    def of_topics(self, topics: Collection[str], until: int, limit: int = 2_000) -> Iterator[list[Record]]:
        """The rows of some topics up to a position that exists already, in batches in order of position."""
        position = 0
        while records := self._select(_TOPICS, position, until, list(topics), limit):
            yield records
            if len(records) < limit:
                return
            position = records[-1].position

    def of_streams(self, streams: Collection[UUID], *, after: int = 0, until: int = MAX_POSITION) -> list[Record]:
        """The rows of some streams in order of position, at most 100,000."""
        return self._select(_STREAMS, list(streams), after, until, MAX_STREAM_FACTS)

    def _after(self, position: int, limit: int, until: int) -> list[tuple[Any, ...]]:
        rows = self._rows(_AFTER, position, until, limit)
        if len(rows) == limit:
            last = _record(rows[-1])
            bound = min(until, last.position + MAX_EVENTS_PER_COMMAND)
            rows += self._rows(_REST, last.position, bound, last.command_id)
        return rows

    def _select(self, statement: str, *parameters: Any) -> list[Record]:
        return list(map(_record, self._rows(statement, *parameters)))

    def _rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._connection.cursor(binary=True) as cursor:
            cursor.execute(statement, parameters, prepare=True)
            rows = cursor.fetchall()
        return rows if all(map(_STATE, rows)) else self._brought_back(rows)

    def _brought_back(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The rows with the states that are in the archive. Raises ArchiveUnreadable at the first that is not."""

        def select(statement: str, positions: list[int]) -> list[tuple[Any, ...]]:
            return self._connection.cursor(binary=True).execute(statement, (positions,)).fetchall()

        records = list(map(_record, rows))
        states = archived_states(select, [record.position for record in records if not record.state])
        return [record if record.state else record._replace(state=states[record.position]) for record in records]
