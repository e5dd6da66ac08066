"""Dead letters: when the broker gives a message up, it goes to a table with the reason, and is not forgotten."""

import threading
from typing import Any, Final

import msgspec
import psycopg
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RawStreamMsg
from nats.js.errors import NotFoundError
from psycopg.types.json import Jsonb

from .bus import Bus
from .bus_stream import letters_stream
from .database import Database
from .inbox import ACK_TIMEOUT_S, BATCH, FETCH_S, MAX_BACKOFF_S, Puller
from .message import EVENT_ID

ROUTER: Final = "dead-letter-router"

_NOTED = "SELECT handled_at IS NOT NULL, failures, error FROM engine.bus_inbox WHERE consumer = %s AND event_id = %s"
_INSERT = (
    "INSERT INTO engine.bus_dead_letters (consumer, message_id, stream, sequence, subject, headers, payload,"
    " deliveries, reason) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
)
_log = structlog.get_logger()


class _Advisory(msgspec.Struct):
    stream: str
    consumer: str
    stream_seq: int
    deliveries: int


class DeadLetterRouter:
    """Reads the broker's notes that a consumer's deliveries are exhausted, of our consumers and of others'."""

    def __init__(self, bus: Bus, database: Database) -> None:
        self._bus = bus
        self._database = database
        config = ConsumerConfig(durable_name=ROUTER, ack_policy=AckPolicy.EXPLICIT, ack_wait=30.0)
        self._puller = Puller(bus, letters_stream(bus.stream), config)

    def run(self, stopping: threading.Event) -> None:
        """Route until told to stop."""
        failures = 0
        while not stopping.is_set():
            try:
                self.step(min(FETCH_S, 1.0))
                failures = 0
            except Exception as error:
                failures += 1
                _log.info("dead letters wait", error=type(error).__name__)
                stopping.wait(min(MAX_BACKOFF_S, 0.1 * 2 ** min(failures, 10)))

    def step(self, wait_s: float = FETCH_S) -> int:
        """Route what comes within the wait; answers how many notes came."""
        notes = self._puller.pull(BATCH, wait_s)
        for note in notes:
            self._route(note)
        return len(notes)

    def _route(self, note: Msg) -> None:
        advisory = msgspec.json.decode(note.data, type=_Advisory)
        message = self._bus.call(lambda context: _fetched(context, advisory))
        with self._database.writer.connection() as connection, connection.transaction():
            self._write(connection, advisory, message)
        self._bus.call(lambda _: note.ack_sync(timeout=ACK_TIMEOUT_S))

    def _write(self, connection: psycopg.Connection[Any], advisory: _Advisory, message: RawStreamMsg | None) -> None:
        headers = (message.headers if message is not None else None) or {}
        event_id = headers.get(EVENT_ID)
        noted = connection.execute(_NOTED, (advisory.consumer, event_id)).fetchone() if event_id else None
        if noted is not None and noted[0]:
            return  # handled, and only the acknowledgements were lost
        if message is None:
            reason = "the stream no longer has the message"
        elif event_id is None:
            reason = "it does not say which fact it is"
        elif noted is None:
            reason = f"not acknowledged in {advisory.deliveries} deliveries"
        else:
            reason = f"failed {noted[1]} times, at last: {noted[2]}"
        subject, payload = (None, None) if message is None else (message.subject, message.data or b"")
        row = (
            advisory.consumer, event_id or f"sequence {advisory.stream_seq}", advisory.stream, advisory.stream_seq,
            subject, Jsonb(headers), payload, advisory.deliveries, reason,
        )  # fmt: skip
        connection.execute(_INSERT, row)
        _log.error("dead letter", consumer=advisory.consumer, subject=subject, reason=reason[:200])


async def _fetched(context: JetStreamContext, advisory: _Advisory) -> RawStreamMsg | None:
    try:
        return await context.get_msg(advisory.stream, advisory.stream_seq)
    except NotFoundError:
        return None
