"""`village device` against a real API: it enrols once, sends signs of life, and says why when it cannot."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from pydantic import SecretStr

from api.edge.principals import Tokens
from api.server import listen, server
from cli.compose import api_app
from cli.console import Console
from cli.device import DEVICE_FILE, DeviceFile
from infrastructure.database import Database
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from projections.device_registry import Devices
from tests.commands import Command
from workers.projector import Projector

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "guides" / "device-owner.md").read_text()
WAIT_S = 90


@pytest.fixture
def api_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    settings = Settings(home=tmp_path / "home", database_url=SecretStr(database_url), blob_url=None)
    with api_app(settings) as app:
        listening, url = listen("127.0.0.1", 0)
        served = server(app)
        thread = threading.Thread(target=served.run, kwargs={"sockets": [listening]})
        thread.start()
        yield url
        served.should_exit = True
        thread.join()


@pytest.fixture
def operator(api_url: str, tmp_path: Path) -> Iterator[Console]:
    tokens = Tokens(load_keys(tmp_path / "home"))
    with Console(api_url, tokens.issue(role="operator", subject="t", expires_in=timedelta(hours=1))) as console:
        yield console


@pytest.fixture
def claim(operator: Console) -> Callable[[], str]:
    return lambda: str(operator.command("/v1/device_registry/issue_claim", {"owner_id": str(uuid4())})["claim_code"])


def wait_until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.05)


def beats(state: Path) -> int:
    file = state / "sequence"
    return int(file.read_text()) if file.exists() else 0


def test_a_device_enrols_once_and_its_signs_of_life_go_on_after_a_restart(
    api_url: str, claim: Callable[[], str], database: Database, tmp_path: Path
) -> None:
    state = tmp_path / "device"
    words = ["device", "run", "--api", api_url, "--data", "mnist:0/20", "--state", str(state), "--heartbeat", "0.2"]
    first = Command(*words, "--claim", "-", stdin=f"{claim()}\n")
    wait_until(lambda: beats(state) >= 3)
    assert first.stop() == 0, first.complained
    before = beats(state)
    again = Command(*words)
    wait_until(lambda: beats(state) >= before + 2)
    assert again.stop() == 0, again.complained
    with database.writer.connection() as connection:
        rows = connection.execute("SELECT sequence FROM edge.presence").fetchall()
        enrolled = connection.execute(
            "SELECT count(*) FROM log.events WHERE topic = 'device_registry.Device.Enrolled'"
        ).fetchone()
    # A number is on disk before it is sent, so the last one may not have arrived.
    assert [before < int(sequence) <= beats(state) for (sequence,) in rows] == [True]
    assert enrolled == (1,)


def test_a_claim_used_by_other_keys_is_refused_and_the_process_says_so(
    api_url: str, claim: Callable[[], str], tmp_path: Path
) -> None:
    code = claim()
    words = ["device", "run", "--api", api_url, "--data", "mnist:0/20", "--claim", code, "--state"]
    owner = Command(*words, str(tmp_path / "a"))
    wait_until(lambda: (tmp_path / "a" / "identity.json").exists())
    assert owner.stop() == 0, owner.complained
    thief = Command(*words, str(tmp_path / "b"))
    assert thief.wait() == 1
    assert "claim_already_used" in thief.complained
    assert code not in thief.complained


@pytest.mark.parametrize(("words", "status", "why"), [
    (["--claim", "unknown-claim-code", "--data", "mnist:0/20"], 1, "claim_unknown"),
    (["--data", "mnist:0/20"], 1, "needs a claim code"),
    (["--claim", "code", "--data", "mnist:20/20"], 2, "INDEX < COUNT"),
    (["--claim", "code", "--data", "nowhere"], 2, "samples.safetensors"),
])  # fmt: skip
def test_a_device_that_cannot_begin_says_why(
    api_url: str, tmp_path: Path, words: list[str], status: int, why: str
) -> None:
    device = Command("device", "run", "--api", api_url, "--state", str(tmp_path / "device"), *words)
    assert device.wait() == status
    assert why in device.complained


def test_one_device_that_is_refused_does_not_stop_the_others_of_its_process(
    api_url: str, claim: Callable[[], str], tmp_path: Path
) -> None:
    for name, code in (("good", claim()), ("refused", "unknown-claim-code")):
        (tmp_path / "devices" / name).mkdir(parents=True)
        file = DeviceFile(data="mnist:0/20", claim=code)
        (tmp_path / "devices" / name / DEVICE_FILE).write_bytes(msgspec.json.encode(file))
    host = Command("device", "host", str(tmp_path / "devices"), "--api", api_url, "--heartbeat", "0.2", "--json")
    wait_until(lambda: "device stopped" in host.complained)
    (line,) = [line for line in host.complained.splitlines() if "device stopped" in line]
    assert msgspec.json.decode(line)["device"] == "refused"
    beaten = beats(tmp_path / "devices" / "good")
    wait_until(lambda: beats(tmp_path / "devices" / "good") > beaten + 2)
    assert host.stop() == 1


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


ROTATED = r"The device has a new key.\n"
MEASURED = r"(?:(?:matmul-f32|memory-copy|disk-write) +1 +[\d,]+ M\S+/s\n){3}\d+ cores, [\d,]+ MiB of memory\n"


def test_every_command_of_the_guide_does_what_it_says(
    api_url: str, claim: Callable[[], str], operator: Console, database_url: str, tmp_path: Path
) -> None:
    (packing,), (settings,), commands = blocks("python"), blocks("json"), blocks("sh")
    subprocess.run([sys.executable, "-c", packing], cwd=tmp_path, check=True)
    hosted = tmp_path / "devices" / "laptop"
    hosted.mkdir(parents=True)
    (hosted / DEVICE_FILE).write_text(settings.replace("CLAIM-CODE", claim()))
    device = tmp_path / "device"
    for command, outcome in zip(commands, [device, device, device, ROTATED, MEASURED, hosted], strict=True):
        line = command.replace("https://village.example", api_url).replace("CLAIM-CODE", claim())
        line = line.replace("village device", f"exec {sys.executable} -m cli.main device")
        before = beats(outcome) if isinstance(outcome, Path) else 0
        process = subprocess.Popen(
            ["bash", "-c", line],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if isinstance(outcome, str):
            told, err = process.communicate(timeout=WAIT_S)
            assert (process.returncode, bool(re.fullmatch(outcome, told))) == (0, True), told + err
            continue
        wait_until(lambda state=outcome, before=before: beats(state) > before)  # type: ignore[misc]
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
    assert (hosted / "identity.json").exists()
    with Database(database_url, pool_size=1, application="test") as database:
        Projector(database, [Devices()]).run_once()
    for query in blocks("graphql"):
        operator.query(query)
    known = operator.query("{ devices(first: 9) { edges { node { benchmark { measurements { value } } } } } }")
    shown = [edge["node"]["benchmark"] for edge in known["devices"]["edges"]]
    assert [len(benchmark["measurements"]) for benchmark in shown] == [3, 3]
