"""The consumer in the guide to the bus, run as it is written, through a kill and a message that comes twice."""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
import pytest

from domain.device_registry.service import DeviceRegistryService
from infrastructure.blobs import BlobStore
from infrastructure.bus import Bus
from infrastructure.database import Database
from infrastructure.embedded.nats import packaged_binary
from infrastructure.event_store import open_event_log
from tests.bus import STREAM, fresh_bus, message
from tests.cli.villages import eventually
from tests.devices import enrol
from workers.bus_relay import BusRelay

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "bus.md"
DEVICES = 6


@pytest.fixture
def bus(nats_url: str) -> Iterator[Bus]:
    with fresh_bus(nats_url) as bus:
        yield bus


@pytest.fixture
def published(bus: Bus, database: Database, database_url: str, tmp_path: Path) -> Bus:
    """The bus of a village in which devices have enrolled."""
    log = open_event_log(database_url)
    for number in range(DEVICES):
        enrol(DeviceRegistryService(log), device_type="laptop" if number % 3 else "smartphone")
    log.close()
    relay = BusRelay(database, bus, BlobStore.open(None, home=tmp_path), origin="test")
    relay.run_once()
    relay.close()
    return bus


def counted(path: Path) -> dict[str, int]:
    """What the consumer has counted."""
    try:
        with sqlite3.connect(path) as database:
            return dict(database.execute("SELECT type, number FROM devices").fetchall())
    except sqlite3.OperationalError:
        return {}


def guide_s(language: str) -> str:
    """The one block of this language in the guide."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return str(block)


@contextmanager
def consumer(url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The guide's consumer. The longest wait after a kill is that for an acknowledgement: it is cut short."""
    (folder / "consumer.py").write_text(guide_s("python").replace("ack_wait=30", "ack_wait=1"))
    environment = {**os.environ, "NATS_URL": url, "STREAM": STREAM}
    process = subprocess.Popen([sys.executable, "consumer.py", "devices.sqlite"], cwd=folder, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_guide_s_consumer_counts_every_device_once(published: Bus, nats_url: str, tmp_path: Path) -> None:
    result = tmp_path / "devices.sqlite"
    with consumer(nats_url, tmp_path):
        assert eventually(lambda: bool(counted(result)), 60)
    with consumer(nats_url, tmp_path) as process:
        assert eventually(lambda: all_acknowledged(published), 60), "what was on its way at the kill came again"
        assert counted(result) == {"smartphone": 2, "laptop": 4}
        assert process.poll() is None


def all_acknowledged(bus: Bus) -> bool:
    """Whether the consumer is told and has acknowledged everything there is."""
    told = bus.call(lambda context: context.consumer_info(STREAM, "device-counter"))
    return (told.num_pending, told.num_ack_pending) == (0, 0)


@pytest.fixture
def guarded(short_home: Path) -> Iterator[str]:
    """The address of a broker with the guide's users, without user and password."""
    folder = Path(tempfile.mkdtemp(dir=short_home))
    users = guide_s("text").replace("$VILLAGE_PASSWORD", "own").replace("$COUNTER_PASSWORD", "partner")
    users = users.replace("ai_village_events", STREAM)
    ports, store = json.dumps(str(folder)), json.dumps(str(folder / "store"))
    (folder / "nats.conf").write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: {ports}\njetstream {{ store_dir: {store}, max_file_store: 8GB }}\n'
        f"authorization {{\n{users}\n}}\n"
    )
    process = subprocess.Popen([packaged_binary(), "-c", folder / "nats.conf"], stderr=subprocess.DEVNULL)
    try:
        found = folder / f"nats-server_{process.pid}.ports"
        assert eventually(found.exists, 30)
        assert eventually(lambda: bool(found.read_text()), 30)
        yield str(json.loads(found.read_text())["nats"][0]).removeprefix("nats://")
    finally:
        process.kill()
        process.wait()


def test_the_guide_s_user_may_consume_public_events_and_nothing_else(guarded: str, tmp_path: Path) -> None:
    event = b'{"device_type": "watch"}'
    told = message(2, subject="events.DeviceRegisteredEvent", payload=event)
    with Bus(f"nats://village:own@{guarded}", STREAM) as bus:
        bus.publish([message(1), told], after=0)
        with consumer(f"nats://counter:partner@{guarded}", tmp_path):
            assert eventually(lambda: counted(tmp_path / "devices.sqlite") == {"watch": 1}, 60)
        refused = asyncio.run(refusals(f"nats://counter:partner@{guarded}"))
        assert len(refused) == 4
        assert bus.tail().sequence == 2


async def refusals(url: str) -> list[str]:
    """What the broker says to a partner who tries more."""
    said: list[str] = []

    async def hear(error: Exception) -> None:
        said.append(str(error))

    client = await nats.connect(url, inbox_prefix="_INBOX_counter", error_cb=hear)
    create = f"$JS.API.CONSUMER.CREATE.{STREAM}.device-counter.log.testing.>"
    for subject in ("events.DeviceRegisteredEvent", f"$JS.API.STREAM.MSG.GET.{STREAM}", create):
        await client.publish(subject, b"{}")
    await client.subscribe("_INBOX.>")
    for _ in range(200):
        if len(said) >= 4:
            break
        await asyncio.sleep(0.05)
    await client.close()
    return said
