"""The archiver: moves the states of closed streams to the archive, a verified file at a time."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import psycopg

from .archive import MAX_FILE_BYTES, MAX_FILE_FACTS, Archive, encoded
from .audit import record_hash
from .blobs import BlobStore
from .database import Database, Role
from .event_store.reader import LogReader, Record

ARCHIVER_LOCK: Final = 5_873_066_129
"""Key of the advisory lock that lets one archiver work at a time."""
WINDOW: Final = 50_000
"""Positions searched for closed streams at once."""

_UNTIL = (
    "SELECT least((SELECT coalesce(max(size), 0) FROM log.checkpoints),"
    " (SELECT coalesce(max(position), 0) - 1 FROM log.events))"
)
_CLOSED = (
    "SELECT e.stream FROM log.events AS e WHERE e.position > %s AND e.position <= %s AND e.topic = ANY(%s)"
    " AND e.recorded_at < %s AND e.state IS NOT NULL"
    " AND NOT EXISTS (SELECT FROM log.events AS n WHERE n.stream = e.stream AND n.version > e.version)"
)
_SUM = (
    "SELECT count(*), coalesce(sum(length(state)), 0)::bigint FROM log.events"
    " WHERE stream = ANY(%s) AND state IS NOT NULL"
)
_NEXT = (
    "SELECT position FROM log.events WHERE stream = ANY(%s) AND state IS NOT NULL AND position <= %s"
    " ORDER BY position LIMIT %s"
)
_SEALED = "SELECT index + 1, hash FROM log.hashes WHERE level = 0 AND index = ANY(%s)"
_MOVE = "SELECT log.archive(%s, %s, %s, %s)"


class ArchiverBusy(RuntimeError):
    """One archiver works at a time."""


class NotAsSealed(RuntimeError):
    """A fact, or what the archive gave back of it, is not what was sealed; nothing of its file was taken away."""


@dataclass(slots=True)
class Archived:
    """What was moved, or would be: streams, facts, bytes of their states, and the files they went to."""

    streams: int = 0
    facts: int = 0
    state_bytes: int = 0
    files: list[str] = field(default_factory=list)


def archive_closed(
    database: Database,
    blobs: BlobStore,
    closing: Collection[str],
    before: datetime,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda position, until: None,
) -> Archived:
    """Archive every stream whose newest fact is of a closing topic, recorded before an instant, and sealed.

    May be killed and run again at any point: a state leaves the log in the transaction that notes the file it is in,
    and only after that file was read back. Stored files that no transaction noted hold nothing the log lacks.

    Args:
        progress: called with (position searched so far, last position).

    Raises:
        ArchiverBusy. NotAsSealed. BlobStoreUnavailable. psycopg.OperationalError.
    """
    done = Archived()
    with database.connect(Role.ARCHIVER) as connection:
        if connection.execute("SELECT pg_try_advisory_lock(%s)", (ARCHIVER_LOCK,)).fetchone() != (True,):
            raise ArchiverBusy("another archiver is at work")
        until = _int(connection.execute(_UNTIL))
        for start in range(0, max(until, 0), WINDOW):
            window = (start, min(start + WINDOW, until), list(closing), before)
            streams = [stream for (stream,) in connection.execute(_CLOSED, window)]
            done.streams += len(streams)
            if dry_run:
                facts, size = connection.execute(_SUM, (streams,)).fetchone() or (0, 0)
                done.facts, done.state_bytes = done.facts + facts, done.state_bytes + size
            else:
                while records := _next(connection, streams, until):
                    done.files.append(_moved(connection, blobs, records))
                    done.facts += len(records)
                    done.state_bytes += sum(len(record.state) for record in records)
            progress(window[1], until)
    return done


def _next(connection: psycopg.Connection[Any], streams: Sequence[Any], until: int) -> list[Record]:
    """The first facts of these streams that are still in the log, as many as go into one file.

    In order of position, so that a stream's closing fact, by which it is found, goes last.
    """
    positions = [position for (position,) in connection.execute(_NEXT, (list(streams), until, MAX_FILE_FACTS))]
    records, size = LogReader(connection).at(positions), 0
    for index, record in enumerate(records):
        size += len(record.state)
        if index and size > MAX_FILE_BYTES:
            return records[:index]
    return records


def _moved(connection: psycopg.Connection[Any], blobs: BlobStore, records: Sequence[Record]) -> str:
    data = encoded([(record.position, record.topic, record.state) for record in records])
    sha256 = blobs.put_bytes(data)
    held = Archive(blobs).read(sha256)
    positions = [record.position for record in records]
    hashes = [record_hash(record._replace(state=held.get(record.position, b""))) for record in records]
    leaves = [position - 1 for position in positions]
    sealed = {position: bytes(digest) for position, digest in connection.execute(_SEALED, (leaves,))}
    for position, digest in zip(positions, hashes, strict=True):
        if sealed.get(position) != digest:
            raise NotAsSealed(f"fact {position} is not what was sealed: see `village audit verify`")
    connection.execute(_MOVE, (bytes.fromhex(sha256), len(data), positions, hashes))
    return sha256


def _int(cursor: psycopg.Cursor[Any]) -> int:
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])
