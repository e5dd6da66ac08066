"""Servers that are killed in tests, and known to be gone before anything else happens."""

import time

from infrastructure.embedded.nats import EmbeddedNats
from infrastructure.embedded.postgres import EmbeddedPostgres


def wait_until_ended(server: EmbeddedNats | EmbeddedPostgres, timeout_s: float = 30.0) -> None:
    """Until the killed process is reaped; its sockets close a moment before, when `start` still takes it for alive."""
    until = time.monotonic() + timeout_s
    while server.pid is not None:
        assert time.monotonic() < until, "a killed server does not end"
        time.sleep(0.01)
