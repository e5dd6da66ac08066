"""Reading ahead: the next batch of the log is read and decoded while the rows of this one are stored."""

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg

from domain.kernel.fact import Fact
from infrastructure.event_store.reader import LogReader
from projections.fold import by_topic

MAX_AHEAD = 2
"""Batches read ahead and not yet asked for: one of the live scan, one of careful rebuilds."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """A batch of the log decoded: its wanted facts by topic, each topic's in order. `end` is where to go on from."""

    end: int
    is_full: bool
    facts: dict[str, list[Fact]]


def read(connection: psycopg.Connection[Any], topics: Collection[str], position: int, limit: int) -> Chapter:
    """Up to `limit` rows after a position, whole commands only.

    Raises:
        psycopg.Error: the log could not be read.
        UnreadableEvent: a wanted fact does not fit its class.
    """
    end, rows, facts = LogReader(connection).facts_after(position, limit, topics)
    return Chapter(end, rows >= limit, by_topic(facts))


class ReadAhead:
    """Reads in a thread and over a connection of its own: the log never changes, so what was read early is as good.

    A chapter that was read before the log ended may be short; the next one has the rest.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], topics: Collection[str]) -> None:
        self._connect = connect
        self._topics = topics
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = _one_thread()
        self._ahead: dict[tuple[int, int], Future[Chapter]] = {}

    def begin(self, position: int, limit: int) -> None:
        """Begin to read what will be asked for, if that was not begun."""
        if (position, limit) in self._ahead:
            return
        if len(self._ahead) == MAX_AHEAD:
            self._ahead.pop(next(iter(self._ahead))).cancel()
        self._ahead[position, limit] = self._thread.submit(self._read, position, limit)

    def take(self, position: int, limit: int) -> Chapter | None:
        """As `read`, if that was begun; None if not."""
        begun = self._ahead.pop((position, limit), None)
        return None if begun is None else begun.result()

    def close(self) -> None:
        """Ends the thread and the connection; both come back when asked for more."""
        self._thread.shutdown(cancel_futures=True)
        self._thread = _one_thread()
        self._ahead.clear()
        if self._connection is not None:
            self._connection.close()

    def _read(self, position: int, limit: int) -> Chapter:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return read(self._connection, self._topics, position, limit)


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
