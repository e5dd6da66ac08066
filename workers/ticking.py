"""The loop of every clock and monitor: a tick now and then, through times without a database."""

import threading
from collections.abc import Callable

import psycopg
import structlog

from infrastructure.operations import record_error

_log = structlog.get_logger()


def tick_until(stopping: threading.Event, every_s: float, tick: Callable[[], object], who: str) -> None:
    """Tick every so many seconds until told to stop. What fails, the next tick tries again: other parts share the
    process, and a part that fails stops no other."""
    while not stopping.wait(every_s):
        try:
            tick()
        except psycopg.Error as error:
            _log.warning(f"the {who} cannot reach the database", error=repr(error))
        except Exception as error:
            record_error("clock", who, type(error).__name__)
            _log.exception(f"the {who} failed", error=repr(error))
