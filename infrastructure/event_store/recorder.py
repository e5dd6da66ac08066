"""The recorder: commands of many threads become one flush, under one lock, with one commit."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from uuid import UUID

import psycopg
from eventsourcing.persistence import Notification, ProcessRecorder, StoredEvent, Tracking
from psycopg_pool import PoolTimeout

from domain.kernel.errors import LogClosed, LogOverloaded, LogUnavailable
from domain.kernel.ids import event_id_bytes
from domain.kernel.ports import Clock, system_clock
from domain.kernel.scope import CommandScope, new_scope
from domain.kernel.snapshot import StoredSnapshot
from domain.kernel.write import Append, Receipt, Write, Written
from infrastructure.archive import archived_states
from infrastructure.database import Database, Pool, Role

from .decide import given_answer
from .flush import VERSIONS, Flush
from .known import Known
from .waiting import Waiting

MAX_WAITING = 10_000
MAX_WRITES_PER_FLUSH = 256
MAX_EVENTS_PER_FLUSH = 8_192
ANSWER_TIMEOUT_S = 30.0
MAX_RECONNECTS = 6

_CONNECTION_LOST = (psycopg.OperationalError, psycopg.InterfaceError)
_log = logging.getLogger(__name__)


class PostgresRecorder(ProcessRecorder):
    """Appends to `log.events` through one writer thread and reads through a pool.

    The thread takes every command that waits, takes the log's lock once, gives versions and positions in order of
    arrival, inserts with one statement, commits once and answers each caller. A conflict fails only its own command.
    """

    def __init__(self, database: Database) -> None:
        self.clock: Clock = system_clock
        self.on_flush: Callable[[int, float], None] | None = None
        self._database = database
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._connection: psycopg.Connection[Any] | None = None
        self._known = Known()
        self._closed = threading.Event()
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._write_forever, name="log-writer", daemon=True)
        self._thread.start()

    # What the event log calls.

    def write(self, write: Write) -> Written:
        """Record a command and answer once it is durable.

        Raises:
            Conflict, AlreadyExists, CursorMoved, IdempotencyKeyReused: nothing was recorded.
            LogOverloaded, LogClosed: nothing was recorded. LogUnavailable: it is not known whether it was.
        """
        waiting = Waiting(write)
        with self._closing:  # so that nothing queues up behind the end
            if self._closed.is_set():
                raise LogClosed("the event log is closed")
            if self._waiting.qsize() >= MAX_WAITING:
                raise LogOverloaded(f"{MAX_WAITING} commands wait already")
            self._waiting.put(waiting)
        return waiting.wait(ANSWER_TIMEOUT_S)

    def answer_of(self, scope: CommandScope, method: str) -> Receipt | None:
        """The first answer to this idempotency key, if a command with it was recorded.

        Raises:
            IdempotencyKeyReused: the key came with another body then.
        """
        rows = self._read(
            "SELECT body_hash, answer FROM log.commands WHERE actor = %b AND method = %b AND key = %b",
            scope.actor, method, scope.idempotency_key,
        )  # fmt: skip
        return given_answer(scope, *rows[0]) if rows else None

    def versions_of(self, streams: Sequence[UUID]) -> dict[UUID, int]:
        """The newest version of each stream at one moment, 0 for one that does not exist."""
        return dict(self._read(VERSIONS.format("%b"), list(streams)))

    def version_at(self, stream: UUID, position: int) -> int:
        """The version a stream had after the fact at a position, 0 when it did not exist."""
        rows = self._read(
            "SELECT version FROM log.events WHERE stream = %b AND position <= %b ORDER BY version DESC LIMIT 1",
            stream, position,
        )  # fmt: skip
        return int(rows[0][0]) if rows else 0

    def snapshot_of(self, stream: UUID) -> StoredSnapshot | None:
        """The snapshot kept of a stream."""
        rows = self._read(
            "SELECT stream, version, topic, policy_version, state FROM engine.snapshots WHERE stream = %b", stream
        )
        return StoredSnapshot(*rows[0]) if rows else None

    def keep_snapshot(self, snapshot: StoredSnapshot) -> None:
        """Keep a snapshot instead of an older one. It is a cache: where this fails, the next load tries again."""
        try:
            with self._statements.connection() as connection:
                connection.execute(
                    "INSERT INTO engine.snapshots AS s (stream, version, topic, policy_version, state)"
                    " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (stream) DO UPDATE SET version = excluded.version,"
                    " topic = excluded.topic, policy_version = excluded.policy_version, state = excluded.state,"
                    " taken_at = clock_timestamp()"
                    " WHERE (s.policy_version, s.version) <= (excluded.policy_version, excluded.version)",
                    (snapshot.stream, snapshot.version, snapshot.topic, snapshot.policy_version, snapshot.state),
                )
        except psycopg.Error:
            _log.warning("a snapshot could not be kept", exc_info=True)

    def close(self) -> None:
        """Finish what waits, then stop. Safe to call twice."""
        with self._closing:
            already = self._closed.is_set()
            self._closed.set()
        if not already:
            self._waiting.put(None)
        self._thread.join(ANSWER_TIMEOUT_S)

    # What the library calls.

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """The library's own way to record: exact versions, no envelope of ours but the actor `library`."""
        scope = new_scope("library")
        appends = [
            Append(
                stream=UUID(str(stored.originator_id)),
                version=stored.originator_version,
                topic=stored.topic,
                state=stored.state,
                event_id=event_id_bytes(scope.command_id.int, index),
            )
            for index, stored in enumerate(stored_events)
        ]
        position = self.write(Write(scope, "save", appends)).receipt.position
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
        rows = self._read(
            "SELECT version, topic, state FROM log.events WHERE stream = %b AND version > %b AND version <= %b "
            f"ORDER BY version {'DESC' if desc else 'ASC'} LIMIT %b",
            originator_id, gt or 0, 2**62 if lte is None else lte, limit,
        )  # fmt: skip
        if not all(state for _, _, state in rows):
            rows = self._brought_back(originator_id, rows)
        return [StoredEvent(originator_id, version, topic, state) for version, topic, state in rows]

    def select_streams(self, streams: Sequence[UUID]) -> dict[int, list[StoredEvent]]:
        """All stored events of these streams, in the order of their versions, by the numbers of the streams."""
        rows = self._read(
            "SELECT stream, version, topic, state FROM log.events WHERE stream = ANY(%b) ORDER BY stream, version",
            list(streams),
        )
        found: dict[int, list[StoredEvent]] = {}
        for stream, version, topic, state in rows:
            found.setdefault(stream.int, []).append(StoredEvent(stream, version, topic, state))
        for events in found.values():
            if not all(event.state for event in events):
                events[:] = self.select_events(events[0].originator_id)
        return found

    def _brought_back(self, stream: UUID | str, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Rows of (version, topic, state) with the states that are in the archive."""
        places = self._read("SELECT position, version FROM log.events WHERE stream = %b AND state IS NULL", stream)
        wanted = {version for version, _, state in rows if not state}
        versions = {position: version for position, version in places if version in wanted}
        states = {versions[at]: state for at, state in archived_states(self._read, sorted(versions)).items()}
        return [(version, topic, state or states[version]) for version, topic, state in rows]

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
        rows = self._read(
            "SELECT position, stream, version, topic, state FROM log.events "
            "WHERE position >= %b AND position <= %b AND (%b::text[] = '{}' OR topic = ANY(%b::text[])) "
            "ORDER BY position LIMIT %b",
            first, 2**62 if stop is None else stop, list(topics), list(topics), limit,
        )  # fmt: skip
        states = archived_states(self._read, [row[0] for row in rows if not row[-1]])
        return [
            Notification(
                originator_id=stream,
                originator_version=version,
                topic=topic,
                state=state or states[position],
                id=position,
            )
            for position, stream, version, topic, state in rows
        ]

    def max_notification_id(self) -> int | None:
        rows = self._read("SELECT position FROM log.events ORDER BY position DESC LIMIT 1")
        return int(rows[0][0]) if rows else None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> NoReturn:
        raise TypeError("tail the log with infrastructure.event_store.LogReader and Listener")

    def insert_tracking(self, tracking: Tracking) -> NoReturn:
        raise TypeError("cursors move by compare-and-set with a command, see CursorMove")

    def max_tracking_id(self, application_name: str) -> int | None:
        rows = self._read("SELECT min(position) FROM engine.cursors WHERE name = %b", application_name)
        return None if rows[0][0] is None else int(rows[0][0])

    @property
    def _statements(self) -> Pool:
        return self._database.pool(Role.WRITER, autocommit=True)

    def _read(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """All rows, asked once more when the connection broke.

        Raises:
            LogUnavailable: the database does not answer.
        """
        for tried in range(2):
            try:
                with self._statements.connection() as connection, connection.cursor(binary=True) as cursor:
                    return cursor.execute(statement, parameters, prepare=True).fetchall()
            except psycopg.OperationalError as error:
                if tried or isinstance(error, PoolTimeout):
                    raise LogUnavailable(f"the database does not answer: {type(error).__name__}") from error
                self._statements.check()  # the server may be a new one, and every connection lost
        raise AssertionError("every pass returns or raises by the last one")

    # The writer thread.

    def _write_forever(self) -> None:
        while (first := self._waiting.get()) is not None:
            group = [first]
            events = len(first.write.appends)
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
                events += len(following.write.appends)
            self._answer([waiting for waiting in group if waiting.claim()])
            if ended:
                break
        self._disconnect()

    def _answer(self, group: list[Waiting], began_at: int | None = None) -> None:
        """Flush a group; when one of it cannot even be tried, flush each on its own, so only that one fails."""
        flush = Flush([waiting.write for waiting in group], self.clock, began_at, self._known)
        try:
            outcomes = self._flush(flush)
        except _CONNECTION_LOST as error:
            why = f"the database does not answer: {type(error).__name__}"
            outcomes = [LogUnavailable(why) for _ in group]
        except Exception as error:
            if len(group) > 1:
                for waiting in group:
                    self._answer([waiting], flush.began_at)
                return
            outcomes = [error]
        for waiting, outcome in zip(group, outcomes, strict=True):
            waiting.tell(outcome)
        if self.on_flush is not None:
            try:
                self.on_flush(len(group), flush.lock_wait_s)
            except Exception:
                _log.exception("Nobody could be told of a flush")

    def _flush(self, flush: Flush) -> list[Written | Exception]:
        """One transaction, tried again on a new connection when the old one breaks.

        A commit whose answer was lost may stand: the next try looks for the commands above the position the
        lost one began at, and answers for those that are there.
        """
        for tried in range(MAX_RECONNECTS):
            try:
                if self._connection is None:
                    self._connection = self._database.connect(Role.WRITER)
                return flush.run(self._connection)
            except Exception as error:
                # Whatever it was, the transaction is void, or its fate is unknown: start the next one clean.
                lost = isinstance(error, _CONNECTION_LOST) or self._is_broken()
                self._disconnect()
                if not lost or tried == MAX_RECONNECTS - 1:
                    raise
                self._closed.wait(min(2.0, 0.1 * 2**tried))
        raise AssertionError("every pass returns or raises by the last one")

    def _is_broken(self) -> bool:
        return self._connection is not None and self._connection.broken

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
