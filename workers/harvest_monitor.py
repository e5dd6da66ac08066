"""The harvest monitor: pauses sessions that have fallen silent, closes what is over, and thins old samples."""

import threading
from datetime import datetime, timedelta

import structlog

from domain.kernel import Refusal
from domain.kernel.ports import Clock, system_clock
from infrastructure.harvest import HarvestStore
from workers.ticking import tick_until

POLL_S = 1.0
MAX_PER_TICK = 500
MAX_GAP = timedelta(seconds=15)
"""After a longer pause between two ticks nobody was watching, and silence counts anew."""
THIN_EVERY = timedelta(minutes=1)

_LOG_AWAY = 503

_log = structlog.get_logger()


class HarvestMonitor:
    """What samples bring is decided as they come; this decides what their absence brings. Two monitors do no harm."""

    def __init__(self, store: HarvestStore, clock: Clock = system_clock) -> None:
        self._store = store
        self._clock = clock
        self._watching_since: datetime | None = None
        self._ticked_at: datetime | None = None
        self._thinned_at: datetime | None = None

    def run(self, stopping: threading.Event) -> None:
        """Tick until told to stop."""
        tick_until(stopping, POLL_S, lambda: self.tick(self._clock()), "harvest monitor")

    def tick(self, now: datetime) -> int:
        """Settle what has been silent, at most 500 sessions; answers how many were looked at."""
        if self._watching_since is None or self._ticked_at is None or now - self._ticked_at > MAX_GAP:
            self._watching_since = now
        self._ticked_at = now
        found = self._store.silent(now, self._watching_since, MAX_PER_TICK)
        for session_id in found:
            try:
                self._store.settle(session_id, now, self._watching_since)
            except Refusal as refusal:
                _log.warning("harvest session not settled", session_id=str(session_id), code=refusal.code)
                if refusal.status == _LOG_AWAY:
                    break
        if self._thinned_at is None or now - self._thinned_at >= THIN_EVERY:
            self._thinned_at = now
            self._store.thin(now)
        return len(found)
