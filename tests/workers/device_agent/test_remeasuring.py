"""A device that is asked to measure again does so by itself."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from domain.device_registry.device import Device
from domain.device_registry.remeasurement import Remeasurement
from tests.api.registry_desk import Desk
from tests.api.registry_desk import desk as desk
from workers.device_agent.agent import AgentSettings, DeviceAgent
from workers.device_agent.benchmarks import measure_evidence
from workers.device_agent.client import open_http
from workers.device_agent.enrolment import Applicant
from workers.device_agent.state import DeviceState

WAIT_S = 120.0


def test_a_device_answers_what_the_village_asks_it_to_measure_again(desk: Desk, tmp_path: Path) -> None:
    applicant = Applicant(desk.applicant().code, "laptop", "eu-west")
    state, url = DeviceState(tmp_path / "device"), str(desk.client.base_url)
    settings = AgentSettings(url, heartbeat_s=5.0, evidence_poll_s=0.05)

    def measured() -> bool:
        desk.projector.run_once()
        return evidence_of(desk, applicant.device_id) is not None

    def answered() -> bool:
        desk.projector.run_once()
        asked = desk.log.load(Remeasurement, Remeasurement.create_id(applicant.device_id))
        return asked.until is None

    async def live() -> None:
        with ThreadPoolExecutor(1) as executor:
            async with open_http(url) as http:
                agent = DeviceAgent(settings, state, None, http, executor, *measure_evidence(state.folder))
                running = asyncio.create_task(agent.run(applicant))
                await asyncio.to_thread(until, measured)  # a device without evidence is asked for some
                body = {"device_id": str(applicant.device_id)}
                asked = await asyncio.to_thread(desk.post, "ask_remeasurement", body, headers=desk.headers())
                assert asked.status_code == 200, asked.text
                await asyncio.to_thread(until, answered)
                running.cancel()
                await asyncio.wait([running])

    asyncio.run(live())
    state.close()


def evidence_of(desk: Desk, device_id: UUID) -> object:
    device = desk.log.find(Device, device_id)
    return None if device is None else device.evidence


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < ends, holds.__name__
        time.sleep(0.05)
