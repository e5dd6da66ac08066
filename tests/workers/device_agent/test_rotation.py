"""`village device rotate-key`: whatever breaks in between, the device ends with a key that the village knows."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.device import app
from domain.device_registry.device import Device
from infrastructure.http_signatures import DeviceAuth
from tests.api.registry_desk import Desk
from tests.api.registry_desk import desk as desk
from workers.device_agent.client import VillageClient, open_http
from workers.device_agent.enrolment import Applicant, enrol
from workers.device_agent.state import DeviceState, Identity

CAPABILITIES: dict[str, Any] = {
    "ram_mb": 1,
    "cpu_cores": 1,
    "compute_score": 1,
    "frameworks": [],
    "capabilities": [],
    "benchmark_id": "b",
}


@pytest.fixture
def folder(desk: Desk, tmp_path: Path) -> Path:
    """The folder of a device that has enrolled at the desk."""
    applicant = Applicant(desk.applicant().code, "laptop", "eu-west")
    state, url = DeviceState(tmp_path / "device"), str(desk.client.base_url)

    async def join() -> None:
        async with open_http(url) as http:
            member = VillageClient(http, DeviceAuth(applicant.device_id, state.signing_key))
            await enrol(applicant, state, VillageClient(http), member, CAPABILITIES)

    asyncio.run(join())
    state.enrolled(Identity(applicant.device_id, url, CAPABILITIES))
    state.close()
    return state.folder


def rotate(desk: Desk, folder: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["rotate-key", "--api", str(desk.client.base_url), "--state", str(folder)])
    return done.exit_code, done.output.splitlines()[-1]


def versions(desk: Desk, folder: Path) -> int:
    state = DeviceState(folder)
    assert state.identity is not None
    state.close()
    return desk.log.load(Device, state.identity.device_id).version


def test_a_device_gets_a_new_key_and_speaks_with_it(desk: Desk, folder: Path) -> None:
    old = (folder / "ed25519.key").read_bytes()
    assert rotate(desk, folder) == (0, "The device has a new key.")
    assert (folder / "ed25519.key").read_bytes() != old
    assert (folder / "ed25519.key").stat().st_mode & 0o777 == 0o600
    assert not (folder / "ed25519.next").exists()
    assert rotate(desk, folder) == (0, "The device has a new key.")
    assert versions(desk, folder) == 4


def test_a_rotation_whose_answer_was_lost_is_finished_and_not_done_again(desk: Desk, folder: Path) -> None:
    old = (folder / "ed25519.key").read_bytes()
    rotate(desk, folder)
    (folder / "ed25519.key").rename(folder / "ed25519.next")
    (folder / "ed25519.key").write_bytes(old)
    new = (folder / "ed25519.next").read_bytes()
    assert rotate(desk, folder) == (0, "The device has a new key.")
    assert (folder / "ed25519.key").read_bytes() == new
    assert not (folder / "ed25519.next").exists()
    topics = [fact.topic.rpartition(".")[2] for fact in desk.log.recorder.select_notifications(None, 10)]
    assert topics == ["ClaimIssued", "Enrolled", "KeyRotated", "WentOnline"]


def test_without_an_enrolled_device_or_with_a_refused_key_nothing_changes(
    desk: Desk, folder: Path, tmp_path: Path
) -> None:
    code, told = rotate(desk, tmp_path / "empty")
    assert (code, "holds no enrolled device" in told) == (2, True)
    (folder / "ed25519.key").write_bytes(bytes(range(32)))
    code, told = rotate(desk, folder)
    assert (code, "signature_invalid" in told) == (2, True)
    assert (folder / "ed25519.key").read_bytes() == bytes(range(32))
