"""Several devices in one process: one event loop, one connection pool, one training thread."""

import asyncio
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2
import structlog
import torch

from workers.device_agent.agent import AgentSettings, DeviceAgent, DeviceRejected
from workers.device_agent.benchmarks import measure_evidence
from workers.device_agent.client import open_http
from workers.device_agent.data import open_data
from workers.device_agent.enrolment import Applicant
from workers.device_agent.harvest import HarvestOptions
from workers.device_agent.state import DeviceState
from workers.device_agent.training import warm_up

MAX_DEVICES = 100
"""How many devices one process hosts at most."""
_CONNECTIONS_PER_DEVICE = 4


@dataclass(frozen=True)
class HostedDevice:
    """One device to run: its folder, where its data is (if it trains), and its claim until it is enrolled."""

    folder: Path
    data: str | None
    applicant: Applicant | None
    harvest: HarvestOptions | None = None


def run_devices(devices: Sequence[HostedDevice], settings: AgentSettings, *, plain_http: bool = False) -> int:
    """Run devices until SIGTERM or SIGINT; answers how many of them could not go on.

    Ends by itself only when none can go on. Raises ValueError, DataUnavailable or StateInUse before anything is sent
    when the address, a data place or a folder does not fit.
    """
    if not 1 <= len(devices) <= MAX_DEVICES:
        raise ValueError(f"one process hosts 1..{MAX_DEVICES} devices, not {len(devices)}")
    torch.set_num_threads(1)
    http = open_http(settings.api_url, connections=_CONNECTIONS_PER_DEVICE * len(devices), plain_http=plain_http)
    return asyncio.run(_host(devices, settings, http))


async def _host(devices: Sequence[HostedDevice], settings: AgentSettings, http: httpx2.AsyncClient) -> int:
    capabilities, evidence = measure_evidence(_place(devices))
    warm_up()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="training") as executor:
        async with http:
            tasks = []
            for device in devices:
                agent = DeviceAgent(
                    settings,
                    DeviceState(device.folder),
                    open_data(device.data) if device.data is not None else None,
                    http,
                    executor,
                    capabilities,
                    evidence,
                    device.harvest,
                )
                tasks.append(asyncio.create_task(_run(agent, device)))
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, _cancel, tasks)
            done, _ = await asyncio.wait(tasks)
            return sum(task.result() for task in done if not task.cancelled())


def _place(devices: Sequence[HostedDevice]) -> Path:
    """A folder on the disk of the devices."""
    devices[0].folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return devices[0].folder


async def _run(agent: DeviceAgent, device: HostedDevice) -> bool:
    """Run one device; answers whether it could not go on. The others of the process are not touched."""
    log = structlog.get_logger("device_agent").bind(device=device.folder.name)
    try:
        await agent.run(device.applicant)
    except asyncio.CancelledError:
        return False
    except DeviceRejected as rejected:
        log.error("device stopped", why=str(rejected))
    except Exception:
        log.exception("device stopped")
    return True


def _cancel(tasks: Sequence[asyncio.Task[bool]]) -> None:
    for task in tasks:
        task.cancel()
