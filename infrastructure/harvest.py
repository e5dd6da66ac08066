"""Samples of harvest sessions: folded into facts under the lock of their session, kept for charts, thinned by age.

The facts are recorded before the row is written. A crash in between leaves the row behind the log; the same samples
come again then, and what they bring is known already.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg

from domain.harvest.decide import Transition, Watch, emptied, fallen_silent, paused, step
from domain.harvest.sample import Sample, check_batch
from domain.harvest.service import HarvestService
from domain.harvest.session import HarvestSession
from domain.harvest.states import ABANDONED, ACTIVE, STOPPED, STOPPING
from domain.kernel import Receipt, new_scope, within
from infrastructure.database import Database

SEGMENT_MS: Final = 600_000
"""After so much time in one state what was counted becomes a fact."""
ABANDONED_AFTER: Final = timedelta(minutes=15)
"""How long a session outlives its last word: as long as a device that is cut off keeps its samples."""
STOPPED_AFTER: Final = timedelta(seconds=30)
RAW_KEPT, MINUTES_KEPT, HOURS_KEPT = timedelta(days=1), timedelta(days=30), timedelta(days=366)
THIN_AFTER = timedelta(minutes=20)
"""No samples come that are older."""
MAX_THINNED = {60: timedelta(hours=2), 3_600: timedelta(days=2)}
MAX_DELETED = 10_000

_LOCK = "SELECT sequence, heard_at, watch FROM edge.harvest_watches WHERE session_id = %s FOR UPDATE"
_OPEN = """
    INSERT INTO edge.harvest_watches (session_id, device_id, sequence, heard_at, watch)
    VALUES (%s, %s, 0, %s, %s) ON CONFLICT (session_id) DO NOTHING
"""
_KEEP = "UPDATE edge.harvest_watches SET sequence = %s, heard_at = %s, watch = %s WHERE session_id = %s"
_FORGET = "DELETE FROM edge.harvest_watches WHERE session_id = %s"
_SILENT = """
    SELECT session_id FROM edge.harvest_watches
    WHERE heard_at <= %(silent_before)s
      AND (watch ->> 'status' IN ('running', 'throttled', 'stopping') OR heard_at <= %(abandoned_before)s)
    ORDER BY heard_at, session_id LIMIT %(limit)s
"""
_VALUES = ("battery_percent", "battery_temp", "skin_temp", "cpu_temp", "cpu_percent", "memory_percent")
_INSERT = f"""
    INSERT INTO edge.harvest_samples (session_id, sampled_at, resolution_s, samples, {", ".join(_VALUES)})
    SELECT %s, sampled_at, 0, 1, {", ".join(_VALUES)}
    FROM unnest(%s::timestamptz[], %s::real[], %s::real[], %s::real[], %s::real[], %s::real[], %s::real[])
        AS given (sampled_at, {", ".join(_VALUES)})
    ON CONFLICT DO NOTHING
"""
_MEAN = "(sum({0} * samples) / sum(samples) FILTER (WHERE {0} IS NOT NULL))::real"
_MEANS = ", ".join(map(_MEAN.format, _VALUES))
_THIN = f"""
    INSERT INTO edge.harvest_samples (session_id, sampled_at, resolution_s, samples, {", ".join(_VALUES)})
    SELECT session_id, date_bin(%(width)s, sampled_at, 'epoch'), %(resolution_s)s, sum(samples), {_MEANS}
    FROM edge.harvest_samples
    WHERE resolution_s = %(finer_s)s AND sampled_at >= %(start)s AND sampled_at < %(end)s
    GROUP BY 1, 2
    ON CONFLICT DO NOTHING
"""
_DELETE = """
    DELETE FROM edge.harvest_samples WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM edge.harvest_samples WHERE resolution_s = %s AND sampled_at < %s LIMIT %s))
"""


class Told(msgspec.Struct, frozen=True):
    """What a device hears after its samples: the state its session is in, and up to which sample it is known."""

    status: str
    sequence: int
    position: int


class HarvestStore:
    """Takes samples and notices silence; records what they bring through the harvest service. Its methods block."""

    def __init__(self, database: Database, service: HarvestService) -> None:
        self._database = database
        self._service = service

    def take(self, *, session_id: UUID, device_id: UUID, samples: Sequence[Sample], now: datetime) -> Told:
        """Take a batch of a device's samples.

        Raises:
            HarvestSessionUnknown, HarvestSessionOver, and those of `check_batch`: nothing changed.
        """
        with self._locked(session_id, device_id, now) as (connection, session, sequence, watch):
            session.require_open()
            check_batch(samples, after=sequence, since=session.requested_at, now=now)
            changes: list[tuple[Transition | None, Watch]] = []
            for sample in samples:
                if sample.sequence <= watch.sequence or (watch.last_at and sample.sampled_at <= watch.last_at):
                    continue
                watch, found = step(session.policy, watch, sample)
                if found is not None or watch.run_ms >= SEGMENT_MS:
                    changes.append((found, watch))
                    watch = emptied(watch)
            receipt = Receipt(0) if not changes else self._record(f"device:{device_id}", now, session_id, changes)
            status = str(receipt.extra.get("status", session.status))
            connection.execute(_INSERT, (session_id, [s.sampled_at for s in samples], *_columns(samples)))
            self._keep(connection, session_id, samples[-1].sequence, now, watch)
            return Told(status, samples[-1].sequence, receipt.position)

    def stop(self, *, session_id: UUID, device_id: UUID, now: datetime, reason: str = STOPPED) -> Receipt:
        """End a session as its device asks; again changes nothing. Raises HarvestSessionUnknown."""
        with self._locked(session_id, device_id, now) as (connection, _, _, watch):
            receipt = self._service.close_session(session_id=session_id, counted=watch, reason=reason)
            connection.execute(_FORGET, (session_id,))
            return receipt

    def request_stop(self, *, session_id: UUID, owner_id: UUID | None, reason: str, now: datetime) -> Receipt:
        """Ask a device to end its session. Raises HarvestSessionUnknown, HarvestSessionOver."""
        device_id = self._service.get_session(session_id=session_id).device_id
        with self._locked(session_id, device_id, now) as (connection, _, sequence, watch):
            receipt = self._service.request_stop(session_id=session_id, owner_id=owner_id, reason=reason, counted=watch)
            watch = msgspec.structs.replace(emptied(watch), status=STOPPING)
            self._keep(connection, session_id, sequence, now, watch)
            return receipt

    def silent(self, now: datetime, since: datetime, limit: int) -> list[UUID]:
        """Sessions whose silence may mean something, longest silent first; silence counts from `since` on only."""
        watched = now - since
        asked = {
            "silent_before": now - STOPPED_AFTER if watched >= STOPPED_AFTER else _NEVER,
            "abandoned_before": now - ABANDONED_AFTER if watched >= ABANDONED_AFTER else _NEVER,
            "limit": limit,
        }
        with self._database.reader.connection() as connection:
            return [session_id for (session_id,) in connection.execute(_SILENT, asked).fetchall()]

    def settle(self, session_id: UUID, now: datetime, since: datetime) -> None:
        """Pause a running session that has been silent for 30 s, close one that is to stop or abandoned."""
        session = self._service.get_session(session_id=session_id)
        with self._locked(session_id, session.device_id, now) as (connection, session, sequence, watch):
            heard_at = self._heard_at(connection, session_id)
            quiet = now - max(heard_at, since)
            if session.status == STOPPING and quiet >= STOPPED_AFTER:
                self._close(session_id, now, watch, STOPPED)
            elif not session.is_open or quiet >= ABANDONED_AFTER:
                self._close(session_id, now, watch, ABANDONED)
            elif session.status in ACTIVE and quiet >= STOPPED_AFTER:
                late = msgspec.structs.replace(watch, last_at=min(watch.last_at or heard_at, heard_at))
                if (found := fallen_silent(late, now)) is not None:
                    self._record("system:harvest", now, session_id, [(found, watch)])
                    self._keep(connection, session_id, sequence, heard_at, paused(watch, found))
                return
            else:
                return
            connection.execute(_FORGET, (session_id,))

    def thin(self, now: datetime) -> int:
        """Bring samples of some hours to means of a minute, and of an hour, and delete what is too old; how many."""
        with self._database.writer.connection() as connection:
            changed = 0
            for resolution_s, finer_s in ((60, 0), (3_600, 60)):
                changed += _thinned(connection, resolution_s, finer_s, now)
            for resolution_s, kept in ((0, RAW_KEPT), (60, MINUTES_KEPT), (3_600, HOURS_KEPT)):
                changed += connection.execute(_DELETE, (resolution_s, now - kept, MAX_DELETED)).rowcount
        return changed

    @contextmanager
    def _locked(
        self, session_id: UUID, device_id: UUID, now: datetime
    ) -> Iterator[tuple[psycopg.Connection[Any], HarvestSession, int, Watch]]:
        """A session's row under lock, made where it is missing, and what is to be remembered of its samples."""
        session = self._service.session_of(session_id, device_id)
        with self._database.writer.connection() as connection, connection.transaction():
            row = connection.execute(_LOCK, (session_id,)).fetchone()
            if row is None:
                opened = msgspec.json.encode(session.watch(None)).decode()
                connection.execute(_OPEN, (session_id, device_id, now, opened))
                row = connection.execute(_LOCK, (session_id,)).fetchone()
                assert row is not None
            session = self._service.session_of(session_id, device_id)  # as it is under the lock
            yield connection, session, row[0], session.watch(msgspec.convert(row[2], Watch))

    def _heard_at(self, connection: psycopg.Connection[Any], session_id: UUID) -> datetime:
        row = connection.execute(_LOCK, (session_id,)).fetchone()
        assert row is not None
        heard_at: datetime = row[1]
        return heard_at

    def _keep(
        self, connection: psycopg.Connection[Any], session_id: UUID, sequence: int, heard_at: datetime, watch: Watch
    ) -> None:
        connection.execute(_KEEP, (sequence, heard_at, msgspec.json.encode(watch).decode(), session_id))

    def _record(
        self, actor: str, now: datetime, session_id: UUID, changes: Sequence[tuple[Transition | None, Watch]]
    ) -> Receipt:
        return _as(actor, now, lambda: self._service.monitor_harvest_conditions(session_id=session_id, changes=changes))

    def _close(self, session_id: UUID, now: datetime, watch: Watch, reason: str) -> None:
        _as(
            "system:harvest",
            now,
            lambda: self._service.close_session(session_id=session_id, counted=watch, reason=reason),
        )


_NEVER = datetime.fromisoformat("0001-01-02T00:00:00+00:00")


def _as(actor: str, now: datetime, command: Callable[[], Receipt]) -> Receipt:
    with within(new_scope(actor, now=now)):
        return command()


def _columns(samples: Sequence[Sample]) -> list[list[float | None]]:
    return [[getattr(sample, name) for sample in samples] for name in _VALUES]


def _thinned(connection: psycopg.Connection[Any], resolution_s: int, finer_s: int, now: datetime) -> int:
    width = timedelta(seconds=resolution_s)
    row = connection.execute(
        "SELECT done_until FROM edge.harvest_thinning WHERE resolution_s = %s FOR UPDATE", (resolution_s,)
    ).fetchone()
    if row is None:
        oldest = connection.execute(
            "SELECT date_bin(%s, min(sampled_at), 'epoch') FROM edge.harvest_samples WHERE resolution_s = %s",
            (width, finer_s),
        ).fetchone()
        if oldest is None or oldest[0] is None:
            return 0
        row = oldest
    start: datetime = row[0]
    until = now - THIN_AFTER
    if finer_s:
        known = connection.execute(
            "SELECT done_until FROM edge.harvest_thinning WHERE resolution_s = %s", (finer_s,)
        ).fetchone()
        until = min(until, known[0]) if known else start
    end = start + min((until - start) // width * width, MAX_THINNED[resolution_s])
    if end <= start:
        return 0
    asked = {"width": width, "resolution_s": resolution_s, "finer_s": finer_s, "start": start, "end": end}
    done = connection.execute(_THIN, asked).rowcount
    connection.execute(
        "INSERT INTO edge.harvest_thinning (resolution_s, done_until) VALUES (%s, %s)"
        " ON CONFLICT (resolution_s) DO UPDATE SET done_until = excluded.done_until",
        (resolution_s, end),
    )
    return done
