"""The listener: wakes consumers of the log; a hint, never the truth (consumers poll as well)."""

import logging
import random
import threading
from collections.abc import Callable

import psycopg

from .flush import CHANNEL

MAX_BACKOFF_S = 5.0
_log = logging.getLogger(__name__)


class Listener:
    """LISTENs on its own connection in its own thread and reconnects for ever, with backoff.

    Each waiter has its own `threading.Event`; every notification, and every new connection, sets them all.

    Args:
        rest_s: after a hint, those of so many seconds are one hint at their end: a busy log then costs its consumers
            a bounded number of wakes a second, while a hint that comes after a pause is told at once.
    """

    def __init__(
        self, connect: Callable[[], psycopg.Connection[object]], channel: str = CHANNEL, *, rest_s: float = 0.0
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._rest_s = rest_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._waiters: list[Callable[[], None]] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._listen_forever, name="log-listener", daemon=True)

    def start(self) -> "Listener":
        self._thread.start()
        return self

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` (quick, from the listener's thread) on every hint; answers how to unsubscribe."""
        with self._lock:
            self._waiters.append(wake)
        return lambda: self._unsubscribe(wake)

    def wait_until_listening(self, timeout_s: float = 10.0) -> bool:
        """Whether LISTEN is in force; a consumer that pulls after this misses no hint."""
        return self._ready.wait(timeout_s)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _unsubscribe(self, wake: Callable[[], None]) -> None:
        with self._lock:
            if wake in self._waiters:
                self._waiters.remove(wake)

    def _wake_all(self) -> None:
        with self._lock:
            waiters = list(self._waiters)
        for wake in waiters:
            try:
                wake()
            except Exception:
                _log.exception("A consumer of the log could not be woken")

    def _listen_forever(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                with self._connect() as connection:
                    connection.autocommit = True
                    connection.execute(f"LISTEN {self._channel}")
                    self._ready.set()
                    failures = 0
                    self._wake_all()
                    while not self._stopping.is_set():
                        if list(connection.notifies(timeout=0.5, stop_after=1)):
                            self._wake_all()
                            self._stopping.wait(self._rest_s)
            except psycopg.Error:
                self._ready.clear()
                failures += 1
                backoff = min(MAX_BACKOFF_S, 0.05 * 2 ** min(failures, 10))
                self._stopping.wait(backoff * random.uniform(0.5, 1.0))


class Pacer:
    """One consumer's wait: until a hint, but never longer than the poll interval."""

    def __init__(self, listener: Listener | None, poll_s: float) -> None:
        self._hint = threading.Event()
        self._poll_s = poll_s
        self._unsubscribe = listener.subscribe(self._hint.set) if listener else lambda: None

    def wait(self, timeout_s: float | None = None) -> None:
        """Return on a hint or when the interval is over."""
        self._hint.wait(self._poll_s if timeout_s is None else timeout_s)
        self._hint.clear()

    def wake(self) -> None:
        self._hint.set()

    def close(self) -> None:
        self._unsubscribe()
