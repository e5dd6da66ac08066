"""The embedded NATS: private, durable, and gone with its supervisor."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nats
import nats.errors
import psutil
import pytest

from infrastructure.embedded.nats import EmbeddedNats
from infrastructure.embedded.place import HomeInUse
from tests.servers import wait_until_ended


@pytest.fixture
def home(short_home: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = short_home / f"n{abs(hash(request.node.nodeid)) % 10**8}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def publish(url: str, *words: bytes) -> None:
    client = await nats.connect(url, connect_timeout=5)
    stream = client.jetstream()
    await stream.add_stream(name="kept", subjects=["kept.>"])
    for word in words:
        await stream.publish("kept.word", word)
    await client.close()


async def stored(url: str) -> int:
    client = await nats.connect(url, connect_timeout=5)
    found = (await client.jetstream().stream_info("kept")).state.messages
    await client.close()
    return found


def test_a_killed_server_keeps_its_address_and_every_acknowledged_message(home: Path) -> None:
    with EmbeddedNats(home) as server:
        url = server.url
        asyncio.run(publish(url, b"one", b"two"))
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until_ended(server)
        assert server.start() == url
        assert asyncio.run(stored(url)) == 2


def test_messages_outlive_a_stop_and_a_new_start(home: Path) -> None:
    with EmbeddedNats(home) as server:
        asyncio.run(publish(server.url, b"one"))
    with EmbeddedNats(home) as server:
        asyncio.run(publish(server.url, b"two"))
        assert asyncio.run(stored(server.url)) == 2


def test_it_listens_on_loopback_only_and_runs_unprivileged(home: Path) -> None:
    with EmbeddedNats(home) as server:
        assert server.pid is not None
        process = psutil.Process(server.pid)
        listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening == ["127.0.0.1"]
        assert process.uids().effective != 0 or os.geteuid() != 0


def test_nobody_gets_in_without_the_password(home: Path) -> None:
    async def knock(url: str) -> None:
        async def quiet(error: Exception) -> None:
            assert "Authorization" in str(error)

        client = await nats.connect(url, allow_reconnect=False, connect_timeout=5, error_cb=quiet)
        await client.close()

    with EmbeddedNats(home) as server:
        for guess in ["", "village:wrong@"]:
            with pytest.raises(nats.errors.Error, match="Authorization"):
                asyncio.run(knock(f"nats://{guess}127.0.0.1:{urlsplit(server.url).port}"))
        configuration = home / "nats" / "nats.conf"
        assert configuration.stat().st_mode & 0o077 == 0
        assert "sync_interval: always" in configuration.read_text()


def test_two_homes_use_two_ports_and_one_home_starts_once(home: Path) -> None:
    with EmbeddedNats(home / "a") as one, EmbeddedNats(home / "b") as other:
        assert one.port != other.port
        with pytest.raises(HomeInUse):
            EmbeddedNats(home / "a").start()


def test_an_orphan_of_the_same_home_is_stopped_first(home: Path) -> None:
    first = EmbeddedNats(home)
    first.start()
    orphan = first.pid
    first._lock.release()  # as the kernel does when a supervisor dies
    with EmbeddedNats(home) as second:
        assert second.pid != orphan
        assert first.pid is None
