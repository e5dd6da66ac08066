"""Presence: one row per device, changed in place by heartbeats; only what changes in it becomes a fact.

A row says what the log says, or it is `unsettled`. Every transition first marks the row (committed), then records
the fact under the row's lock, then writes the new state. Whatever crashes in between leaves an unsettled row, which
the next heartbeat or tick of the presence clock settles by asking the log, so neither a fact is lost nor a row stuck.

Nothing is recorded that does not last: silence counts after 45 and 90 s, a return after 30 s without such a silence,
another latency class after 60 s in it. So a device's presence changes at most once in 30 s. What has never been is
recorded at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import psycopg

from domain.device_registry.device import OFFLINE, ONLINE
from domain.device_registry.latency import LatencyWatch
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import Receipt, Refusal, new_scope, within
from infrastructure.database import Database

DEGRADED_AFTER = timedelta(seconds=45)
OFFLINE_AFTER = timedelta(seconds=90)
ONLINE_AFTER = timedelta(seconds=30)
"""How long a device that was silent has to send heartbeats, none later than DEGRADED_AFTER, to be online again."""

MAX_SEQUENCE = 2**63 - 1
MAX_LATENCY_MS = 600_000

UNSETTLED = "unsettled"

# The latency is a moving average, in which one measurement counts a quarter.
_BEAT = """
    INSERT INTO edge.presence AS held (device_id, key_number, sequence, last_seen_at, steady_since, state, latency_ms)
    VALUES (%(device_id)s, %(key_number)s, %(sequence)s, %(now)s, 'epoch', 'unsettled', %(latency_ms)s)
    ON CONFLICT (device_id) DO UPDATE SET
        key_number = excluded.key_number,
        sequence = excluded.sequence,
        last_seen_at = greatest(held.last_seen_at, excluded.last_seen_at),
        steady_since = CASE WHEN excluded.last_seen_at - held.last_seen_at >= %(gap)s
            THEN excluded.last_seen_at ELSE held.steady_since END,
        latency_ms = CASE
            WHEN excluded.latency_ms IS NULL THEN held.latency_ms
            WHEN held.latency_ms IS NULL THEN excluded.latency_ms
            ELSE (held.latency_ms * 3 + excluded.latency_ms) / 4
        END
    WHERE (held.key_number, held.sequence) < (excluded.key_number, excluded.sequence)
    RETURNING state, steady_since, latency_ms, latency_class_ms, latency_candidate_ms, latency_since
"""
_MARK = "UPDATE edge.presence SET state = 'unsettled' WHERE device_id = %s"
_LOCK = "SELECT state, last_seen_at, steady_since FROM edge.presence WHERE device_id = %s FOR UPDATE"
_SETTLE = "UPDATE edge.presence SET state = %s WHERE device_id = %s"
# Without a known class the next measurement is recorded at once, and so settles what a crash has left open.
_MARK_LATENCY = "UPDATE edge.presence SET latency_class_ms = NULL WHERE device_id = %s"
_WATCH = (
    "UPDATE edge.presence SET latency_class_ms = %s, latency_candidate_ms = %s, latency_since = %s WHERE device_id = %s"
)
_MARK_SILENT = """
    UPDATE edge.presence SET state = 'unsettled' WHERE device_id IN (
        SELECT device_id FROM edge.presence
        WHERE state <> 'offline' AND last_seen_at <= CASE state
            WHEN 'degraded' THEN %(offline_before)s::timestamptz ELSE %(degraded_before)s END
        ORDER BY last_seen_at, device_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) RETURNING device_id
"""
_NEVER = datetime.fromisoformat("0001-01-02T00:00:00+00:00")


class HeartbeatReplayed(Refusal):
    """A heartbeat's sequence is greater than that of every earlier one under its key, which is the device's newest."""

    status = 409


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when a device is degraded or offline, given how long it has been watched."""

    degraded_before: datetime
    offline_before: datetime

    @classmethod
    def at(cls, now: datetime, watching_since: datetime) -> "Silence":
        """Silence counts only while somebody watched: a village that was down itself loses no device."""
        watched = now - watching_since
        return cls(
            degraded_before=now - DEGRADED_AFTER if watched >= DEGRADED_AFTER else _NEVER,
            offline_before=now - OFFLINE_AFTER if watched >= OFFLINE_AFTER else _NEVER,
        )

    def state(self, last_seen_at: datetime) -> Literal["online", "degraded", "offline"]:
        """What a device is that was last seen then."""
        if last_seen_at <= self.offline_before:
            return "offline"
        return "degraded" if last_seen_at <= self.degraded_before else "online"


class PresenceStore:
    """Takes heartbeats and finds silence; records transitions through the device registry. Its methods block."""

    def __init__(self, database: Database, registry: DeviceRegistryService) -> None:
        self._database = database
        self._registry = registry

    def beat(self, *, device_id: UUID, key_number: int, sequence: int, latency_ms: int | None, now: datetime) -> str:
        """Take one heartbeat of an enrolled device, signed with its `key_number`th new key; answers its presence.

        Raises:
            HeartbeatReplayed: neither the key is newer nor the sequence has risen; nothing changed.
        """
        beat = {
            "device_id": device_id,
            "key_number": key_number,
            "sequence": sequence,
            "latency_ms": latency_ms,
            "now": now,
            "gap": DEGRADED_AFTER,
        }
        with self._database.writer.connection() as connection:
            row = connection.execute(_BEAT, beat, prepare=True).fetchone()
        if row is None:
            raise HeartbeatReplayed(f"sequence {sequence} is not greater than the last one")
        state, steady_since, average, *watch = row
        if state == UNSETTLED or (state != ONLINE and now - steady_since >= ONLINE_AFTER):
            state = self._settle_seen(device_id, now, mark=state != UNSETTLED)
        if average is not None:
            self._watch_latency(device_id, LatencyWatch(*watch), average, now)
        return str(state)

    def mark_silent(self, silence: Silence, limit: int) -> list[UUID]:
        """Mark devices whose silence may be a transition, longest silent first."""
        asked = {
            "degraded_before": silence.degraded_before,
            "offline_before": silence.offline_before,
            "limit": limit,
        }
        with self._database.writer.connection() as connection:
            return [device_id for (device_id,) in connection.execute(_MARK_SILENT, asked).fetchall()]

    def settle_silent(self, device_id: UUID, silence: Silence, now: datetime) -> str:
        """Record what a marked device's silence means now; answers its state."""
        with self._database.writer.connection() as connection, connection.transaction():
            state, last_seen_at, _ = _locked(connection, device_id)
            found = silence.state(last_seen_at)
            if state != UNSETTLED or found == ONLINE:
                return state  # a heartbeat came in between, and settles the row itself
            self._record("system:clock", now, lambda: self._fell_silent(device_id, found, last_seen_at))
            return self._settled(connection, device_id)

    def _settle_seen(self, device_id: UUID, now: datetime, *, mark: bool) -> str:
        if mark:
            with self._database.writer.connection() as connection:
                connection.execute(_MARK, (device_id,))
        with self._database.writer.connection() as connection, connection.transaction():
            state, _, steady_since = _locked(connection, device_id)
            if state != UNSETTLED:
                return state  # another heartbeat has settled it
            if now - steady_since >= ONLINE_AFTER:
                self._record(
                    f"device:{device_id}",
                    now,
                    lambda: self._registry.device_went_online(device_id=device_id, seen_at=now),
                )
            return self._settled(connection, device_id)

    def _settled(self, connection: psycopg.Connection[Any], device_id: UUID) -> str:
        """Let a locked row say what the log says; answers that."""
        state = self._registry.presence_of(device_id)
        connection.execute(_SETTLE, (state, device_id))
        return state

    def _watch_latency(self, device_id: UUID, watch: LatencyWatch, average: int, now: datetime) -> None:
        after = watch.after(average, now)
        if after == watch:
            return
        reached = after.known
        if reached != watch.known and reached is not None:
            with self._database.writer.connection() as connection:
                connection.execute(_MARK_LATENCY, (device_id,))
        with self._database.writer.connection() as connection, connection.transaction():
            _locked(connection, device_id)
            if reached != watch.known and reached is not None:
                self._record(
                    f"device:{device_id}",
                    now,
                    lambda: self._registry.record_latency_class(device_id=device_id, latency_ms=reached),
                )
            connection.execute(_WATCH, (*after, device_id))

    def _fell_silent(self, device_id: UUID, found: str, last_seen_at: datetime) -> Receipt:
        if found == OFFLINE:
            return self._registry.device_went_offline(device_id=device_id, last_seen_at=last_seen_at)
        return self._registry.device_went_degraded(device_id=device_id, seen_at=last_seen_at)

    def _record(self, actor: str, now: datetime, command: Callable[[], Receipt]) -> None:
        with within(new_scope(actor, now=now)):
            command()


def _locked(connection: psycopg.Connection[Any], device_id: UUID) -> tuple[str, datetime, datetime]:
    row = connection.execute(_LOCK, (device_id,)).fetchone()
    assert row is not None, "presence rows are never deleted"
    return row[0], row[1], row[2]
