"""The recorder: commands of many threads become one flush, under one lock, with one commit."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, NoReturn
from uuid import UUID

import psycopg
from eventsourcing.persistence import Notification, ProcessRecorder, StoredEvent, Tracking

from domain.kernel.errors import LogOverloaded, LogUnavailable
from domain.kernel.ports import Clock, system_clock
from domain.kernel.scope import CommandScope, new_scope
from domain.kernel.write import Append, Receipt, Write, Written
from infrastructure.database import Database, Role

from .decide import given_answer
from .flush import Flush

MAX_WAITING = 10_000
MAX_WRITES_PER_FLUSH = 256
MAX_EVENTS_PER_FLUSH = 8_192
ANSWER_TIMEOUT_S = 30.0
MAX_RECONNECTS = 6

Waiting = tuple[Write, "Future[Written]"]


class PostgresRecorder(ProcessRecorder):
    """Appends to `log.events` through one writer thread and reads through a pool.

    The thread takes every command that waits, takes the log's lock once, gives versions and positions in order of
    arrival, inserts with one statement, commits once and answers each caller. A conflict fails only its own command.
    """

    def __init__(self, database: Database) -> None:
        self.clock: Clock = system_clock
        self.on_flush: Callable[[int, float], None] | None = None
        self._database = database
        self._waiting: queue.Queue[Waiting | None] = queue.Queue(MAX_WAITING)
        self._connection: psycopg.Connection[Any] | None = None
        self._closed = threading.Event()
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._write_forever, name="log-writer", daemon=True)
        self._thread.start()

    # What the event log calls.

    def write(self, write: Write) -> Written:
        """Record a command and answer once it is durable.

        Raises:
            Conflict, AlreadyExists, CursorMoved, IdempotencyKeyReused: nothing was recorded.
            LogOverloaded: nothing was recorded. LogUnavailable: it is not known whether it was.
        """
        answer: Future[Written] = Future()
        if self._closed.is_set():
            raise LogOverloaded("the event log is closed")
        try:
            self._waiting.put_nowait((write, answer))
        except queue.Full:
            raise LogOverloaded(f"{MAX_WAITING} commands wait already") from None
        try:
            return answer.result(ANSWER_TIMEOUT_S)
        except FutureTimeout:
            if answer.cancel():
                raise LogOverloaded(f"not begun within {ANSWER_TIMEOUT_S:.0f} s") from None
            raise LogUnavailable(f"no answer within {ANSWER_TIMEOUT_S:.0f} s") from None

    def answer_of(self, scope: CommandScope, method: str) -> Receipt | None:
        """The first answer to this idempotency key, if a command with it was recorded.

        Raises:
            IdempotencyKeyReused: the key came with another body then.
        """
        with self._database.writer.connection() as connection:
            row = connection.execute(
                "SELECT body_hash, answer FROM log.commands WHERE actor = %s AND method = %s AND key = %s",
                (scope.actor, method, scope.idempotency_key),
            ).fetchone()
        return None if row is None else given_answer(scope, row[0], row[1])

    def close(self) -> None:
        """Finish what waits, then stop. Safe to call twice."""
        with self._closing:
            if not self._closed.is_set():
                self._closed.set()
                self._waiting.put(None, timeout=ANSWER_TIMEOUT_S)
        self._thread.join(ANSWER_TIMEOUT_S)

    # What the library calls.

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """The library's own way to record: exact versions, no envelope of ours but the actor `library`."""
        appends = [
            Append(UUID(str(e.originator_id)), e.originator_version, e.topic, e.state, UUID(int=index + 1))
            for index, e in enumerate(stored_events)
        ]
        position = self.write(Write(new_scope("library"), "save", appends)).receipt.position
        return list(range(position - len(appends) + 1, position + 1))

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Stored events of one stream, in the order of its versions."""
        with self._database.writer.connection() as connection, connection.cursor(binary=True) as cursor:
            cursor.execute(
                "SELECT version, topic, state FROM log.events WHERE stream = %b AND version > %b AND version <= %b "
                f"ORDER BY version {'DESC' if desc else 'ASC'} LIMIT %b",
                (originator_id, gt or 0, 2**62 if lte is None else lte, limit),
                prepare=True,
            )
            return [StoredEvent(originator_id, version, topic, state) for version, topic, state in cursor]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Stored events in the order of positions."""
        first = 0 if start is None else start if inclusive_of_start else start + 1
        with self._database.writer.connection() as connection, connection.cursor(binary=True) as cursor:
            cursor.execute(
                "SELECT position, stream, version, topic, state FROM log.events "
                "WHERE position >= %b AND position <= %b AND (%b::text[] = '{}' OR topic = ANY(%b::text[])) "
                "ORDER BY position LIMIT %b",
                (first, 2**62 if stop is None else stop, list(topics), list(topics), limit),
            )
            return [
                Notification(originator_id=stream, originator_version=version, topic=topic, state=state, id=position)
                for position, stream, version, topic, state in cursor
            ]

    def max_notification_id(self) -> int | None:
        with self._database.writer.connection() as connection:
            row = connection.execute("SELECT position FROM log.events ORDER BY position DESC LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> NoReturn:
        raise TypeError("tail the log with infrastructure.event_store.LogReader and Listener")

    def insert_tracking(self, tracking: Tracking) -> NoReturn:
        raise TypeError("cursors move by compare-and-set with a command, see CursorMove")

    def max_tracking_id(self, application_name: str) -> int | None:
        with self._database.writer.connection() as connection:
            row = connection.execute(
                "SELECT min(position) FROM engine.cursors WHERE name = %s", (application_name,)
            ).fetchone()
        return None if row is None else row[0]

    # The writer thread.

    def _write_forever(self) -> None:
        while (first := self._waiting.get()) is not None:
            group = [first]
            events = len(first[0].appends)
            ended = False
            while len(group) < MAX_WRITES_PER_FLUSH and events < MAX_EVENTS_PER_FLUSH:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    ended = True
                    break
                group.append(following)
                events += len(following[0].appends)
            self._answer([waiting for waiting in group if waiting[1].set_running_or_notify_cancel()])
            if ended:
                break
        if self._connection is not None:
            self._connection.close()

    def _answer(self, group: list[Waiting]) -> None:
        """Flush a group; when one of it cannot even be tried, flush each on its own, so only that one fails."""
        try:
            outcomes = self._flush([write for write, _ in group])
        except Exception as error:
            unknown = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
            if len(group) > 1 and not unknown:
                for waiting in group:
                    self._answer([waiting])
                return
            told = LogUnavailable(f"the database does not answer: {type(error).__name__}") if unknown else error
            outcomes = [told] * len(group)
        for (_, answer), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Written):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)

    def _flush(self, writes: list[Write]) -> list[Written | Exception]:
        """One transaction, tried again on a new connection when the old one breaks.

        A commit whose answer was lost may stand: the next try looks for the commands above the position the
        lost one began at, and answers for those that are there.
        """
        flush = Flush(writes, self.clock)
        for tried in range(MAX_RECONNECTS):
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._database.connect(Role.WRITER)
                outcomes = flush.run(self._connection)
                if self.on_flush is not None:
                    self.on_flush(len(writes), flush.lock_wait_s)
                return outcomes
            except (psycopg.OperationalError, psycopg.InterfaceError):
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                if tried == MAX_RECONNECTS - 1:
                    raise
                self._closed.wait(min(2.0, 0.1 * 2**tried))
            except Exception:
                # The transaction is void: start the next one clean.
                assert self._connection is not None
                self._connection.close()
                self._connection = None
                raise
        raise AssertionError("every pass returns or raises by the last one")
