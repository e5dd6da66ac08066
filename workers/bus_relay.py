"""The bus relay: the log is the outbox, and every fact of it goes to the bus once, in the order of the log."""

import threading
from datetime import datetime, timedelta
from typing import Any, Protocol

import psycopg
import structlog

from domain.kernel.errors import CursorMoved
from domain.kernel.ports import Clock, system_clock
from infrastructure.bus import Bus, Outcome, PayloadTooLarge
from infrastructure.bus_status import RELAY
from infrastructure.bus_stream import Limits, Tail
from infrastructure.database import Database, Role
from infrastructure.event_store.reader import LogReader
from infrastructure.message import Message
from projections.published import by_reference, messages_of

from .pump import follow_log

BATCH = 1_000
POLL_S = 0.25
RECHECK_S = 60.0
"""How long the relay trusts that the stream ends where it left it, when it has nothing to publish."""

_READ = "SELECT position FROM engine.cursors WHERE name = %s AND partition = 0"
_BEGIN = "INSERT INTO engine.cursors (name) VALUES (%s) ON CONFLICT DO NOTHING"
_MOVE = (
    "UPDATE engine.cursors SET position = %s, updated_at = clock_timestamp()"
    " WHERE name = %s AND partition = 0 AND position = %s"
)
_TELL = (
    "INSERT INTO engine.bus_relays AS r (name, published, referred, reconciled, published_at)"
    " VALUES (%s, %s, %s, %s, CASE WHEN %s THEN clock_timestamp() END) ON CONFLICT (name) DO UPDATE"
    " SET published = r.published + excluded.published, referred = r.referred + excluded.referred,"
    " reconciled = r.reconciled + excluded.reconciled, failing = false,"
    " published_at = coalesce(excluded.published_at, r.published_at)"
)
_TELL_FAILURE = (
    "INSERT INTO engine.bus_relays AS r (name, failures, failing, error, failed_at)"
    " VALUES (%s, 1, true, %s, clock_timestamp()) ON CONFLICT (name) DO UPDATE"
    " SET failures = r.failures + 1, failing = true, error = excluded.error, failed_at = excluded.failed_at"
)
_log = structlog.get_logger()


class StreamDiverged(Exception):
    """The stream holds facts that are not in this log: another village's, or this log was restored from the past."""


class Blobs(Protocol):
    """Where payloads go that the broker does not take."""

    def put_bytes(self, data: bytes) -> str: ...


class BusRelay:
    """Publishes facts in order behind its cursor, and moves the cursor by compare-and-set once they are stored.

    The stream itself tells what is out: its last message names its position. So a crash between the two writes
    publishes nothing twice, a broker that came back with less than it had gets the rest again, and a second relay, or
    one that wakes from a long sleep, can do no harm.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        blobs: Blobs,
        *,
        origin: str,
        limits: Limits | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._blobs = blobs
        self._origin = origin
        self._kept_for = timedelta(seconds=(limits or Limits()).max_age_s)
        self._clock = clock
        self._connection: psycopg.Connection[Any] | None = None
        self._sequence: int | None = None  # where the stream ends; None = look
        self._position = 0
        self._looked_at = clock()
        self._failing = True  # until it has worked: what an earlier relay wrote down may say so

    def run(self, stopping: threading.Event) -> None:
        """Relay until told to stop."""
        try:
            follow_log("bus relay", self.step, lambda: self._database.connect(Role.READER), POLL_S, stopping)
        finally:
            self.close()

    def run_once(self) -> int:
        """Publish everything that stands now; answers the position reached."""
        while self.step():
            pass
        return self._position

    def step(self) -> bool:
        """Publish one batch; whether anything was there. What fails is told in `engine.bus_relays`."""
        try:
            more = self._relay()
            if self._failing:
                self._open().execute(_TELL, (RELAY, 0, 0, 0, False))
                self._failing = False
            return more
        except Exception as error:
            self._sequence, self._failing = None, True
            self._tell_failure(error)
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _relay(self) -> bool:
        if self._sequence is None:
            self._reconcile()
        records = LogReader(self._open()).after(self._position, BATCH).records
        if not records:
            self._look_again()
            return False
        messages = messages_of(records, self._origin)
        while messages:
            outcome = self._publish(messages)
            messages = messages[outcome.count :]
            if isinstance(outcome.failure, PayloadTooLarge):
                self._refer(messages, outcome.failure)
            elif outcome.failure is not None:
                raise outcome.failure
        return True

    def _publish(self, messages: list[Message]) -> Outcome:
        assert self._sequence is not None
        outcome = self._bus.publish(messages, self._sequence)
        if outcome.count:
            self._advance(messages[outcome.count - 1].position, published=outcome.count)
            self._sequence = outcome.sequence
            self._looked_at = self._clock()
        return outcome

    def _refer(self, messages: list[Message], why: PayloadTooLarge) -> None:
        """Leave the first payload in the blob store and send its address instead."""
        large = messages[0]
        if not large.payload:
            raise why  # its headers alone are too large, which no fact's are
        messages[0] = by_reference(large, self._blobs.put_bytes(large.payload))
        self._open().execute(_TELL, (RELAY, 0, 1, 0, False))
        _log.warning("published by reference", subject=large.subject, position=large.position, bytes=large.size)

    def _reconcile(self) -> None:
        """Find out what is out: the stream knows, the cursor only remembers."""
        tail = self._bus.tail()
        connection = self._open()
        connection.execute(_BEGIN, (RELAY,))
        row = connection.execute(_READ, (RELAY,)).fetchone()
        self._position = 0 if row is None else int(row[0])
        start = self._start(tail)
        if start != self._position:
            _log.warning("the stream and the cursor differ", cursor=self._position, stream=start)
            self._advance(start, reconciled=1)
        self._sequence = tail.sequence

    def _start(self, tail: Tail) -> int:
        if tail.position is not None:
            found = LogReader(self._open()).at([tail.position])
            if not found or found[0].event_id != tail.event_id:
                raise StreamDiverged(f"message {tail.sequence} of {self._bus.stream} is fact {tail.position} elsewhere")
            return tail.position
        if tail.sequence == 0 and self._position:
            # A new stream where there was one: fill it with what it would still have.
            return min(self._position, self._position_at(self._clock() - self._kept_for))
        return self._position  # emptied by age or by an operator, or somebody else wrote last

    def _position_at(self, instant: datetime) -> int:
        """The newest position recorded before an instant, by halving: `recorded_at` never runs backwards."""
        reader = LogReader(self._open())
        low, high = 0, reader.head()
        while low < high:
            middle = (low + high + 1) // 2
            if reader.at([middle])[0].recorded_at < instant:
                low = middle
            else:
                high = middle - 1
        return low

    def _look_again(self) -> None:
        now = self._clock()
        if now - self._looked_at > timedelta(seconds=RECHECK_S):
            self._looked_at = now
            self._reconcile()

    def _advance(self, position: int, *, published: int = 0, reconciled: int = 0) -> None:
        connection = self._open()
        with connection.transaction():
            if connection.execute(_MOVE, (position, RELAY, self._position)).rowcount != 1:
                raise CursorMoved(f"another relay has moved {RELAY} from {self._position}")
            connection.execute(_TELL, (RELAY, published, 0, reconciled, published > 0))
        self._position = position

    def _tell_failure(self, error: Exception) -> None:
        try:
            self._open().execute(_TELL_FAILURE, (RELAY, f"{type(error).__name__}: {error}"[:1_000]))
        except psycopg.Error:
            _log.info("the failure could not be written down", error=type(error).__name__)

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect(Role.WRITER)
            # The stream tells more surely than the cursor what is out.
            self._connection.execute("SET synchronous_commit = off")
        return self._connection
