"""The pump: runs a consumer of the log for ever, one step at a time, through lost connections and failures."""

import random
import threading
import time
from collections.abc import Callable

import psycopg
import structlog

from infrastructure.event_store.listener import Listener, Pacer
from infrastructure.metrics import CONSUMER_FAILURES
from infrastructure.operations import record_error

MAX_BACKOFF_S = 10.0
REST_S = 0.02
"""How long a consumer of a busy log is left alone after a hint: what comes meanwhile it handles together."""
_log = structlog.get_logger()


class Failures:
    """Backs off what keeps failing: exponential with jitter, bounded, forgotten on success."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, tuple[int, float]] = {}

    def is_held(self, name: str) -> bool:
        """Whether this one has failed and its pause is not over."""
        return name in self._held and self._clock() < self._held[name][1]

    def failed(self, name: str, error: BaseException) -> None:
        """Hold it back, the longer the oftener it has failed in a row."""
        count = self._held.get(name, (0, 0.0))[0] + 1
        pause = min(MAX_BACKOFF_S, 0.1 * 2 ** min(count, 10)) * random.uniform(0.5, 1.0)
        self._held[name] = (count, self._clock() + pause)
        CONSUMER_FAILURES.labels(name).inc()
        record_error("workers", name, type(error).__name__)
        _log.error(
            "consumer failed",
            consumer=name,
            error=repr(error),
            failures=count,
            retry_in_s=round(pause, 2),
            exc_info=error if count == 1 else None,
        )

    def succeeded(self, name: str) -> None:
        self._held.pop(name, None)

    def names(self) -> list[str]:
        """What is failing at present."""
        return sorted(self._held)


def follow_log(
    name: str,
    step: Callable[[], bool],
    connect: Callable[[], psycopg.Connection[object]],
    poll_s: float,
    stopping: threading.Event,
    rest_s: float = REST_S,
) -> None:
    """`run_forever` for a consumer of the log: LISTENs before the first step, polls as the floor."""
    listener = Listener(connect, rest_s=rest_s).start()
    pacer = Pacer(listener, poll_s)
    try:
        listener.wait_until_listening()
        run_forever(name, step, pacer, stopping)
    finally:
        pacer.close()
        listener.stop()


def run_forever(name: str, step: Callable[[], bool], pacer: Pacer, stopping: threading.Event) -> None:
    """Call `step` until told to stop. It answers whether there may be more to do at once.

    Any failure (a lost database, mostly) is logged and tried again after a bounded pause.
    """
    failures = Failures()
    while not stopping.is_set():
        try:
            more = False
            if not failures.is_held(name):
                more = step()
                failures.succeeded(name)
        except Exception as error:
            failures.failed(name, error)
            more = False
        if not more and not stopping.is_set():
            pacer.wait()
