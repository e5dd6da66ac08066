"""The feed: one tailer of the log per process, fanned out to subscribers; each resumes from any position.

A subscriber reads the log from its own position until it meets the tailer, then takes what the tailer reads. Its
queue is bounded: one that falls behind loses the queue, not its place, and reads on from the log. So nothing is
lost and nothing comes twice, and a slow subscriber costs a bounded amount of memory.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import structlog

from domain.kernel.errors import PositionAhead, Refusal
from infrastructure.database import Role
from infrastructure.event_store.listener import Listener
from infrastructure.event_store.reader import Batch, LogReader, Record

from .context import ApiContext
from .metrics import RESYNCS, SUBSCRIPTIONS
from .problems import RateLimited, TokenExpired

POLL_S = 1.0
BATCH = 500
QUEUED_BATCHES = 16
MAX_SUBSCRIBERS = 2_000
_RETRY_S = 1.0

log = structlog.get_logger("api")


class PositionInvalid(Refusal):
    """A position is a whole number from 0."""


@dataclass(slots=True, eq=False)
class _Subscriber:
    """One subscriber's queue. `lagging` says that the queue overflowed and was dropped."""

    queue: asyncio.Queue[Batch | None] = field(default_factory=lambda: asyncio.Queue(QUEUED_BATCHES))
    lagging: bool = False

    def offer(self, batch: Batch | None) -> None:
        if self.lagging:
            return
        if self.queue.full():
            self.lagging = True
            while not self.queue.empty():
                self.queue.get_nowait()
            RESYNCS.inc()
            batch = Batch(0, 0, []) if batch is not None else None  # wakes the subscriber, and tells it nothing
        self.queue.put_nowait(batch)


class Feed:
    """Tails the log while anybody listens. Start and stop it with the app."""

    def __init__(self, ctx: ApiContext) -> None:
        self.ended = False
        self._ctx = ctx
        self._subscribers: set[_Subscriber] = set()
        self._position = 0
        self._wake = asyncio.Event()
        self._listener = Listener(lambda: ctx.database.connect(Role.READER))
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            if self._subscribers:
                with suppress(RuntimeError):  # the loop may be closed already when the last hint comes
                    loop.call_soon_threadsafe(self._wake.set)

        self._listener.start().subscribe(wake)
        self._task = asyncio.create_task(self._tail(), name="feed")

    def end(self) -> None:
        """End every subscription, and each that comes later at once: the process is about to stop."""
        self.ended = True
        for subscriber in list(self._subscribers):
            subscriber.lagging = False
            subscriber.offer(None)

    async def stop(self) -> None:
        """End every subscription and stop listening."""
        self.end()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self._listener.stop)

    async def head(self) -> int:
        """The position of the newest fact."""
        return await self._ctx.in_query_thread(self._read_head)

    async def follow(
        self,
        after: int | None = None,
        *,
        topics: Collection[str] | None = None,
        streams: Collection[UUID] | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[Record]:
        """Every fact after a position (by default: from now on), in order, each once; ends when the feed stops.

        `topics` and `streams` choose; None is all of them. `until` is when the subscriber's proof ends.

        Raises:
            PositionInvalid, PositionAhead: no fact has that position. TokenExpired: `until` has come.
            RateLimited: too many subscriptions are open.
        """
        cursor = await self._start_of(after)
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise RateLimited(f"{MAX_SUBSCRIBERS} subscriptions are open already")
        subscriber = _Subscriber()
        await self._join(subscriber)
        try:
            async for batch in self._batches(subscriber, cursor, until):
                for record in batch.records:
                    if (topics is None or record.topic in topics) and (streams is None or record.stream in streams):
                        yield record
        finally:
            self._subscribers.discard(subscriber)
            SUBSCRIPTIONS.set(len(self._subscribers))

    async def _start_of(self, after: int | None) -> int:
        head = await self.head()
        if after is not None and after < 0:
            raise PositionInvalid(f"{after} is below 0")
        if after is not None and after > head:
            raise PositionAhead(f"the log stands at {head}, {after} was asked for")
        return head if after is None else after

    async def _join(self, subscriber: _Subscriber) -> None:
        if not self._subscribers:
            head = await self.head()
            if not self._subscribers:  # nobody listened, nor came while we asked: what lies before, it reads itself
                self._position = head
        self._subscribers.add(subscriber)
        self._wake.set()  # hints that came while nobody listened were not told
        SUBSCRIPTIONS.set(len(self._subscribers))

    async def _batches(self, subscriber: _Subscriber, cursor: int, until: datetime | None) -> AsyncIterator[Batch]:
        """Batches without gap or overlap: from the log until the tailer is met, then from the queue."""
        behind = True
        while not self.ended:
            _check_time(until)
            if behind or subscriber.lagging:
                subscriber.lagging = False  # from here on the tailer queues again
                batch = await self._ctx.in_query_thread(partial(self._read, cursor))
                behind = bool(batch.records)
            else:
                queued = await self._next(subscriber, until)
                if queued is None:
                    return
                behind = queued.start > cursor  # positions are gapless: a gap means that something was not queued
                batch = Batch(0, 0, []) if behind else _rest(queued, cursor)
            if batch.records:
                cursor = batch.end
                yield batch

    async def _next(self, subscriber: _Subscriber, until: datetime | None) -> Batch | None:
        if until is None:
            return await subscriber.queue.get()
        try:
            async with asyncio.timeout(max(0.0, (until - datetime.now(UTC)).total_seconds())):
                return await subscriber.queue.get()
        except TimeoutError:
            _check_time(until)
            return Batch(0, 0, [])

    async def _tail(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                while self._subscribers and (batch := await self._read_on()).records:
                    for subscriber in self._subscribers:
                        subscriber.offer(batch)
            except Exception as error:
                log.warning("the feed could not read the log", error=type(error).__name__)
                await asyncio.sleep(_RETRY_S)

    async def _read_on(self) -> Batch:
        start = self._position
        batch = await self._ctx.in_query_thread(lambda: self._read(start))
        if self._position != start:  # the last subscriber left and another came: its start is ours
            return await self._read_on()
        self._position = batch.end
        return batch

    def _read(self, position: int) -> Batch:
        with self._ctx.database.reader.connection() as connection:
            return LogReader(connection).after(position, BATCH)

    def _read_head(self) -> int:
        with self._ctx.database.reader.connection() as connection:
            return LogReader(connection).head()


def _rest(batch: Batch, cursor: int) -> Batch:
    if batch.start >= cursor:
        return batch
    records = [record for record in batch.records if record.position > cursor]
    return Batch(max(batch.start, cursor), batch.end, records)


def _check_time(until: datetime | None) -> None:
    if until is not None and datetime.now(UTC) >= until:
        raise TokenExpired("the session has ended; log in again and resume from the last position")
