"""The presence clock: notices devices that have fallen silent."""

import threading
from datetime import datetime, timedelta

import psycopg
import structlog

from domain.kernel import Refusal
from domain.kernel.ports import Clock, system_clock
from infrastructure.presence import PresenceStore, Silence

POLL_S = 1.0
MAX_PER_TICK = 500
MAX_GAP = timedelta(seconds=15)
"""After a longer pause between two ticks nobody was watching, and silence counts anew."""

_LOG_AWAY = 503

_log = structlog.get_logger()


class PresenceClock:
    """Records `WentDegraded` and `WentOffline` for what has been silent. Two clocks do no harm."""

    def __init__(self, store: PresenceStore, clock: Clock = system_clock) -> None:
        self._store = store
        self._clock = clock
        self._watching_since: datetime | None = None
        self._ticked_at: datetime | None = None

    def run(self, stopping: threading.Event) -> None:
        """Tick until told to stop."""
        busy = False
        while not stopping.wait(0.0 if busy else POLL_S):
            try:
                busy = self.tick(self._clock()) == MAX_PER_TICK
            except psycopg.Error as error:
                busy = False
                _log.warning("the presence clock cannot reach the database", error=repr(error))

    def tick(self, now: datetime) -> int:
        """Settle what has been silent for too long, at most 500 devices; answers how many were looked at."""
        if self._watching_since is None or self._ticked_at is None or now - self._ticked_at > MAX_GAP:
            self._watching_since = now
        self._ticked_at = now
        silence = Silence.at(now, self._watching_since)
        marked = self._store.mark_silent(silence, MAX_PER_TICK)
        for device_id in marked:
            try:
                self._store.settle_silent(device_id, silence, now)
            except Refusal as refusal:
                # It stays unsettled, and a later tick tries again.
                _log.warning("presence not settled", device_id=str(device_id), code=refusal.code)
                if refusal.status == _LOG_AWAY:
                    break
        return len(marked)
