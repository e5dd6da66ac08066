"""Discovery: every process registers with NATS micro (`$SRV.PING`, `INFO`, `STATS`), so that all can be listed."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

CONNECT_TIMEOUT_S: Final = 2.0
RETRY_S: Final = 2.0
ANSWER_S: Final = 0.5
MAX_SERVICES: Final = 1_000
PREFIX: Final = "village-"

_log = structlog.get_logger()


class Instance(msgspec.Struct, frozen=True):
    """One process that answers: what it is, where it runs, since when (RFC 3339), and its address if it has one."""

    service: str
    id: str
    version: str
    host: str
    pid: int
    started_at: str
    url: str


@contextmanager
def registered(url: str | None, process: str, version: str, address: str = "") -> Iterator[None]:
    """This process, found by others as long as it runs and its bus answers. Without a bus nobody is found."""
    if url is None:
        yield
        return
    metadata = {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": address,
    }
    loop, stopping = asyncio.new_event_loop(), asyncio.Event()
    work = _stay(url, process, version, metadata, stopping)
    thread = threading.Thread(target=lambda: loop.run_until_complete(work), name="discovery", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(CONNECT_TIMEOUT_S * 2)
        if not thread.is_alive():
            loop.close()


async def _stay(url: str, process: str, version: str, metadata: dict[str, str], stopping: asyncio.Event) -> None:
    """Connect, register, and again whenever the connection is lost."""
    from nats.aio.client import Client
    from nats.micro import add_service

    while not stopping.is_set():
        client, closed = Client(), asyncio.Event()

        async def lost(closed: asyncio.Event = closed) -> None:
            closed.set()

        try:
            await client.connect(url.split(","), name=f"{PREFIX}{process}", closed_cb=lost, **_OPTIONS)
            service = await add_service(client, name=f"{PREFIX}{process}", version=version, metadata=metadata)
            await _first(stopping, closed)
            if stopping.is_set():
                await service.stop()
        except Exception as error:  # its text may hold an address with a password
            _log.info("discovery has no bus", error=type(error).__name__)
        finally:
            if not client.is_closed:
                await client.close()
        await _first(stopping, within_s=RETRY_S)


async def _first(*events: asyncio.Event, within_s: float | None = None) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()


def services(url: str) -> list[Instance]:
    """Every process that answers within half a second, by name and start.

    Raises:
        ConnectionError: the bus does not answer.
    """
    return asyncio.run(asked(url))


async def asked(url: str) -> list[Instance]:
    """As `services`, for callers with an event loop."""
    from nats.aio.client import Client
    from nats.errors import Error

    client, found = Client(), list[Instance]()
    try:
        await client.connect(url.split(","), name="village-services", **_OPTIONS)
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox, max_msgs=MAX_SERVICES)
        await client.publish("$SRV.INFO", reply=inbox)
        until = time.monotonic() + ANSWER_S
        while len(found) < MAX_SERVICES and (left := until - time.monotonic()) > 0:
            try:
                message = await answers.next_msg(timeout=left)
            except (Error, TimeoutError):
                break
            found += _instance(message.data)
    except (Error, OSError) as error:
        raise ConnectionError(f"the bus does not answer: {type(error).__name__}") from None
    finally:
        if not client.is_closed:
            await client.close()
    return sorted(found, key=lambda each: (each.service, each.started_at, each.id))


def _instance(data: bytes) -> list[Instance]:
    """What a process says of itself; nothing for services that are not the village's."""
    try:
        told: dict[str, Any] = msgspec.json.decode(data)
        about = told["metadata"]
        if not told["name"].startswith(PREFIX):
            return []
        return [
            Instance(
                service=told["name"].removeprefix(PREFIX),
                id=told["id"],
                version=told["version"],
                host=about["host"],
                pid=int(about["pid"]),
                started_at=about["started_at"],
                url=about["url"],
            )
        ]
    except (KeyError, TypeError, ValueError):
        return []


def to_dicts(found: list[Instance]) -> list[dict[str, Any]]:
    """The instances for JSON."""
    return [msgspec.to_builtins(each) for each in found]


async def _tell(error: Exception) -> None:
    _log.debug("discovery's connection reports", error=type(error).__name__)


_OPTIONS: Final[dict[str, Any]] = {
    "allow_reconnect": False,
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0,
    "connect_timeout": CONNECT_TIMEOUT_S,
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "error_cb": _tell,
}
