"""Numbers of one process for Prometheus, and how a process shows them to a Prometheus on its machine."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIServer

import psutil
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from .embedded.place import write_private

_log = structlog.get_logger()
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
_FLUSH_COMMANDS = Histogram(
    "village_log_flush_commands",
    "Commands one flush of the log held.",
    buckets=[2**power for power in range(9)],
    registry=REGISTRY,
)
_LOCK_WAIT_SECONDS = Histogram(
    "village_log_lock_wait_seconds",
    "How long a flush waited for the lock of the log.",
    buckets=[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    registry=REGISTRY,
)
CONSUMER_FAILURES = Counter(
    "village_consumer_failures",
    "Times a consumer failed and was held back.",
    ["consumer"],
    registry=REGISTRY,
)
LEFT_OUT = Gauge(
    "village_contexts_left_out",
    "Contexts that this process runs without, because their part of it could not start.",
    ["context", "part"],
    registry=REGISTRY,
)


def flushed(commands: int, lock_wait_s: float) -> None:
    """Count a flush of the log, as `open_event_log(on_flush=...)` tells of it."""
    _FLUSH_COMMANDS.observe(commands)
    _LOCK_WAIT_SECONDS.observe(lock_wait_s)


@contextmanager
def served(home: Path, process: str, port: int = 0) -> Iterator[str]:
    """This process's /metrics on a loopback port, announced; answers its address.

    Args:
        port: 0 is a free one, as is one that is taken: by another process of the same kind.
    """
    server, thread = _started(port)
    target = f"127.0.0.1:{server.server_port}"
    try:
        with announced(home, process, target):
            yield f"http://{target}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _started(port: int) -> tuple[WSGIServer, Thread]:
    try:
        return start_http_server(port, "127.0.0.1", REGISTRY)
    except OSError as error:
        if not port:
            raise
        _log.warning("metrics are on a free port", wanted=port, error=error.strerror)
        return start_http_server(0, "127.0.0.1", REGISTRY)


@contextmanager
def announced(home: Path, process: str, target: str) -> Iterator[None]:
    """Name a target in `home`/metrics/*.json, which Prometheus's file_sd_configs read, as long as this process runs."""
    folder = home / "metrics"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob("*.json"):  # by processes that were killed
        if not psutil.pid_exists(int(left.stem.rpartition("-")[2])):
            left.unlink(missing_ok=True)
    file = folder / f"{process}-{os.getpid()}.json"
    write_private(file, json.dumps([{"targets": [target], "labels": {"process": process}}]), None)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
