"""The inbox: consumers of the bus whose effects happen once, however often a message comes."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from psycopg_pool import PoolTimeout

from .bus import Bus
from .bus_window import BusUnavailable
from .database import Database, Role
from .message import EVENT_ID, POSITION, MessageMalformed

FETCH_S: Final = 5.0
ACK_TIMEOUT_S: Final = 5.0
BATCH: Final = 64
MAX_BACKOFF_S: Final = 10.0
KEEP: Final = timedelta(days=30)
"""How long the inbox remembers; longer than the stream keeps a message."""
PRUNE_EVERY: Final = 10_000

_FIRST_TIME = (
    "INSERT INTO engine.bus_inbox AS i (consumer, event_id, position, handled_at)"
    " VALUES (%s, %s, %s, clock_timestamp()) ON CONFLICT (consumer, event_id) DO UPDATE"
    " SET handled_at = excluded.handled_at WHERE i.handled_at IS NULL RETURNING 1"
)
_FAILED = (
    "INSERT INTO engine.bus_inbox AS i (consumer, event_id, position, failures, error)"
    " VALUES (%s, %s, %s, 1, %s) ON CONFLICT (consumer, event_id) DO UPDATE"
    " SET failures = i.failures + 1, error = excluded.error WHERE i.handled_at IS NULL"
)
_PRUNE = "DELETE FROM engine.bus_inbox WHERE consumer = %s AND handled_at < clock_timestamp() - %s"
_LETTERS = (
    "SELECT subject, headers, payload, deliveries FROM engine.bus_dead_letters"
    " WHERE consumer = %s AND message_id = %s AND resolved_at IS NULL AND payload IS NOT NULL FOR UPDATE"
)
_RESOLVE = "UPDATE engine.bus_dead_letters SET resolved_at = clock_timestamp() WHERE consumer = %s AND message_id = %s"
_AWAY_STATES: Final = ("08", "53", "57P")
"""SQLSTATEs of a server that refuses or ends connections; without any, the connection itself broke."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Received:
    """A message as a handler gets it. `deliveries` counts from 1."""

    subject: str
    event_id: UUID
    position: int
    headers: dict[str, str]
    payload: bytes
    deliveries: int

    def json(self) -> Any:
        """The payload decoded."""
        return msgspec.json.decode(self.payload)


Handler = Callable[[psycopg.Connection[Any], Received], None]
"""Has its effect through the given connection, whose transaction also holds the inbox row. It may raise: nothing of it
stands then, and the message comes again later."""


class Consumer:
    """A durable pull consumer. One transaction a message: inbox row and effect together, then the acknowledgement.

    In order, the next message waits until this one is handled or given up, so a stream's facts are handled in their
    order. Out of order it is faster, and a message that failed is handled after later ones.
    A database that is away costs no delivery: the message is kept until it is back.
    """

    def __init__(
        self,
        bus: Bus,
        database: Database,
        name: str,
        subjects: Sequence[str],
        handle: Handler,
        *,
        in_order: bool = True,
        max_deliver: int = 6,
        ack_wait_s: float = 30.0,
        backoff_s: Sequence[float] = (0.5, 2.0, 8.0, 30.0),
    ) -> None:
        self.name = name
        self._bus = bus
        self._database = database
        self._handle = handle
        self._backoff_s = backoff_s
        self._ack_wait_s = ack_wait_s
        self._batch = 1 if in_order else BATCH
        self._config = ConsumerConfig(
            durable_name=name,
            filter_subjects=list(subjects),
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_s,
            max_deliver=max_deliver,
            max_ack_pending=self._batch,
        )
        self._puller = Puller(bus, bus.stream, self._config)
        self._handled = 0
        self._done: list[Msg] = []
        self._connection: psycopg.Connection[Any] | None = None

    def run(self, stopping: threading.Event) -> None:
        """Consume until told to stop; a broker or database that is away is waited for."""
        failures = 0
        while not stopping.is_set():
            try:
                self.step(stopping)
                failures = 0
            except Exception as error:
                failures += 1
                pause = min(MAX_BACKOFF_S, 0.1 * 2 ** min(failures, 10))
                _log.warning("consumer waits", consumer=self.name, error=type(error).__name__, retry_in_s=pause)
                stopping.wait(pause)
        self.close()

    def close(self) -> None:
        """Acknowledge what is done and give the connection to the database back. A later step opens another."""
        try:
            self._hold([])
        except BusUnavailable:
            _log.info("the last acknowledgements are lost: these messages come again, and have no effect")
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def step(self, stopping: threading.Event | None = None, wait_s: float = FETCH_S) -> int:
        """Handle what comes within the wait; answers how many messages came."""
        done, self._done = self._done, []
        messages = self._puller.pull(self._batch, wait_s, done)
        held_since = time.monotonic()
        for number, message in enumerate(messages):
            if self._take(message, stopping or threading.Event()):
                self._done.append(message)
            if time.monotonic() - held_since > self._ack_wait_s / 3:
                self._hold(messages[number + 1 :])
                held_since = time.monotonic()
        return len(messages)

    def retry(self, event_ids: Sequence[UUID]) -> int:
        """Handle these dead letters again, one transaction each; answers how many are resolved. Raises what fails."""
        done = 0
        for event_id in event_ids:
            with self._database.writer.connection() as connection, connection.transaction():
                row = connection.execute(_LETTERS, (self.name, str(event_id))).fetchone()
                if row is None:
                    continue
                subject, headers, payload, deliveries = row
                self._once(connection, received(subject, headers, bytes(payload), deliveries))
                connection.execute(_RESOLVE, (self.name, str(event_id)))
                done += 1
        return done

    def _take(self, message: Msg, stopping: threading.Event) -> bool:
        """Whether it was handled; it is acknowledged together with the next request for messages."""
        deliveries = message.metadata.num_delivered
        try:
            self._handle_when_database_answers(message, stopping)
        except _Stopped:
            return False
        except Exception as error:
            pause = self._backoff_s[min(deliveries, len(self._backoff_s)) - 1]
            _log.warning(
                "message failed", consumer=self.name, subject=message.subject, deliveries=deliveries,
                error=repr(error)[:200], retry_in_s=pause,
            )  # fmt: skip
            self._bus.call(lambda _: message.nak(delay=pause))
            return False
        self._handled += 1
        if self._handled % PRUNE_EVERY == 0:
            self._prune()
        return True

    def _hold(self, waiting: Sequence[Msg]) -> None:
        """Acknowledge what is done, and tell the broker that the rest is in hand, before it sends all of it again."""
        done, self._done = self._done, []

        async def tell(context: JetStreamContext) -> None:
            await acknowledged(done)
            for message in waiting:
                await message.in_progress()

        self._bus.call(tell)

    def _handle_when_database_answers(self, message: Msg, stopping: threading.Event) -> None:
        for tried in range(1_000_000):
            try:
                return self._handle_once(message)
            except Exception as error:
                if not _is_away(error):
                    raise
                pause = min(MAX_BACKOFF_S, self._ack_wait_s / 3, 0.1 * 2 ** min(tried, 10))
                _log.warning("consumer waits for the database", consumer=self.name, error=type(error).__name__)
                self._bus.call(lambda _: message.in_progress())
                if stopping.wait(pause):
                    raise _Stopped from error
        raise AssertionError("a database is not away for that long")

    def _handle_once(self, message: Msg) -> None:
        got = received(message.subject, message.headers or {}, message.data, message.metadata.num_delivered)
        try:
            connection = self._open()
            with connection.transaction():
                self._once(connection, got)
        except Exception as error:
            if _is_away(error):
                raise
            self._open().execute(_FAILED, (self.name, got.event_id, got.position, repr(error)[:2_000]))
            raise

    def _once(self, connection: psycopg.Connection[Any], got: Received) -> None:
        if connection.execute(_FIRST_TIME, (self.name, got.event_id, got.position), prepare=True).fetchone():
            self._handle(connection, got)

    def _prune(self) -> None:
        self._open().execute(_PRUNE, (self.name, KEEP))

    def _open(self) -> psycopg.Connection[Any]:
        """The consumer's own connection: a pool's would be asked first, each time, whether it is alive."""
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect(Role.WRITER)
        return self._connection


class Puller:
    """Fetches from a durable consumer, made when it is not there, over whatever connection stands."""

    def __init__(self, bus: Bus, stream: str, config: ConsumerConfig) -> None:
        self._bus = bus
        self._stream = stream
        self._config = config
        self._bound: tuple[JetStreamContext, JetStreamContext.PullSubscription] | None = None

    def pull(self, batch: int, wait_s: float, done: Sequence[Msg] = ()) -> list[Msg]:
        """Acknowledge what is done, and answer the messages that come within the wait, maybe none.

        Raises:
            BusUnavailable: there is no connection, or it broke.
        """
        return self._bus.call(lambda context: self._pull(context, batch, wait_s, done))

    async def _pull(self, context: JetStreamContext, batch: int, wait_s: float, done: Sequence[Msg]) -> list[Msg]:
        if self._bound is None or self._bound[0] is not context:
            await context.add_consumer(self._stream, self._config)
            subscription = await context.pull_subscribe_bind(self._config.durable_name, self._stream)
            self._bound = (context, subscription)
        acknowledging = asyncio.ensure_future(acknowledged(done))
        try:
            return await self._bound[1].fetch(batch, wait_s)
        except TimeoutError:
            return []
        finally:
            await acknowledging


async def acknowledged(messages: Sequence[Msg]) -> None:
    """Acknowledge messages, and wait until the broker has said that it knows."""
    await asyncio.gather(*(message.ack_sync(timeout=ACK_TIMEOUT_S) for message in messages))


def _is_away(error: Exception) -> bool:
    """Whether the database is the reason, not the message."""
    if isinstance(error, PoolTimeout | psycopg.InterfaceError):
        return True
    if not isinstance(error, psycopg.OperationalError):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(_AWAY_STATES)


class _Stopped(Exception):
    """We are to stop while the database is away; the message comes again."""


def received(subject: str, headers: dict[str, str], payload: bytes, deliveries: int) -> Received:
    """A message read.

    Raises:
        MessageMalformed: it does not say which fact it is.
    """
    try:
        event_id, position = UUID(headers[EVENT_ID]), int(headers[POSITION])
    except (KeyError, ValueError) as error:
        raise MessageMalformed(f"{subject}: no {EVENT_ID} and {POSITION}") from error
    return Received(subject, event_id, position, dict(headers), payload, deliveries)
