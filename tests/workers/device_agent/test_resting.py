"""An agent whose policy says rest begins no job, and lets the one it has stand still, with or without its village."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.device_registry.evidence import Evidence
from domain.marketplace.work import JobLimits, JobOrder, JobSpec, sign_order
from workers.device_agent.agent import AgentSettings, DeviceAgent
from workers.device_agent.client import RetryPolicy, VillageClient, open_http
from workers.device_agent.harvest import Harvest, HarvestOptions
from workers.device_agent.jobs import runner
from workers.device_agent.sensors import Measured
from workers.device_agent.state import Capabilities, DeviceState, Identity

from .test_harvest import FINE, Office
from .village import Answer, Seen, village

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are confined on Linux")

HOT = msgspec.structs.replace(FINE, battery_temp=61.0)
CAPABILITIES: Capabilities = {"frameworks": [], "compute_score": 1}
FOR_EVER = {"seed": 1, "start": 0, "count": 1 << 40, "difficulty_bits": 64}
SPEC = JobSpec("hash_search", FOR_EVER, {}, JobLimits(cpu_ms=600_000, wall_ms=600_000, memory_mb=2_048))
WAIT_S = 120.0


class Dial:
    """Sensors that a test turns; they count their readings."""

    def __init__(self, reading: Measured) -> None:
        self.reading, self.read_so_far = reading, 0

    def names(self) -> list[str]:
        return ["battery", "power", "temperature", "cpu", "network"]

    def read(self) -> Measured:
        self.read_so_far += 1
        return self.reading


@dataclass(frozen=True)
class Dialled(HarvestOptions):
    """What the owner has asked for, of sensors that a test turns."""

    dial: Dial = field(default_factory=lambda: Dial(FINE))

    def harvest(self, client: VillageClient) -> Harvest:
        return Harvest(client, self.dial, self)


class Yard(Office):
    """A village that always has a job for one device."""

    def __init__(self, device_id: UUID) -> None:
        super().__init__(audit=None)
        self.asked: list[str] = []
        self._key = Ed25519PrivateKey.generate()
        deadline_at = datetime.now(UTC) + timedelta(hours=1)
        self._order = sign_order(self._key, JobOrder(uuid4(), uuid4(), device_id, SPEC, deadline_at))

    def __call__(self, seen: Seen) -> Answer:
        name = seen.path.rpartition("/")[2].partition("?")[0]
        self.asked.append(name)
        text, signature = self._order
        answers = {
            "job_key": {"public_key": self._key.public_key().public_bytes_raw().hex()},
            "job_order": {"order": text, "signature": signature},
            "report_job_usage": {"wanted": True},
        }
        if self.away or name not in answers:
            return super().__call__(seen)
        return Answer(body=msgspec.json.encode(answers[name]))


@contextmanager
def device(folder: Path, dial: Dial) -> Iterator[tuple[Yard, Callable[[Callable[[], Awaitable[None]]], None]]]:
    """An enrolled device that lends itself, with its village; the second runs it while a script goes on."""
    device_id = uuid4()
    yard, state = Yard(device_id), DeviceState(folder / "device")
    with village(yard) as (url, _):

        async def live(script: Callable[[], Awaitable[None]]) -> None:
            settings = AgentSettings(url, heartbeat_s=0.5, wait_ms=0, jobs=True, retry=RetryPolicy(10_000, cap_s=0.5))
            options = Dialled(sample_s=0.02, send_s=0.05, dial=dial)
            with ThreadPoolExecutor(1) as executor:
                async with open_http(url) as http:
                    agent = DeviceAgent(
                        settings, state, None, http, executor, CAPABILITIES, Evidence(1, 1, []), options
                    )  # fmt: skip
                    running = asyncio.create_task(agent.run(None))
                    try:
                        await script()
                        assert not running.done()
                    finally:
                        running.cancel()
                        await asyncio.wait([running])

        state.enrolled(Identity(device_id, url, CAPABILITIES, datetime.now(UTC)))
        yield yard, lambda script: asyncio.run(live(script))
    state.close()


async def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < ends, holds
        await asyncio.sleep(0.02)


def job_is(*statuses: str) -> bool:
    """Whether a job's process of this test is in one of these states."""
    for child in psutil.Process().children(recursive=True):
        try:
            if any("device_agent.jobs" in word for word in child.cmdline()) and child.status() in statuses:
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def test_a_device_that_rests_asks_for_no_job(tmp_path: Path) -> None:
    dial = Dial(HOT)
    with device(tmp_path, dial) as (yard, run):

        async def rest() -> None:
            await until(lambda: dial.read_so_far >= 50)
            assert "job_order" not in yard.asked

        run(rest)
    assert "start_harvest_session" not in yard.asked


def test_a_running_job_stands_still_while_its_device_rests_though_the_village_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "REPORT_S", 0.1)
    dial = Dial(FINE)
    with device(tmp_path, dial) as (yard, run):

        async def work_and_rest() -> None:
            await until(lambda: job_is(psutil.STATUS_RUNNING) and "report_job_usage" in yard.asked)
            yard.away = True  # a report is tried again now, without an end
            seen = yard.asked.count("report_job_usage")
            await until(lambda: yard.asked.count("report_job_usage") > seen + 1)
            dial.reading = HOT
            await until(lambda: job_is(psutil.STATUS_STOPPED))

        run(work_and_rest)
    assert not job_is(psutil.STATUS_RUNNING, psutil.STATUS_STOPPED)
