"""An agent killed with SIGKILL at each step goes on where it was: one enrolment, one update a round, the same bytes."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import msgspec
import pytest

from api.edge.principals import Tokens
from cli.console import Console
from cli.device import DEVICE_FILE, DeviceFile
from cli.up import Supervisor
from domain.federated_learning.manifest import mlp_manifest
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from tests.commands import Command
from tests.workers.device_agent.village import Answer, Seen, village
from workers.device_agent.data import mnist_split, samples_blob
from workers.device_agent.state import Identity
from workers.models import initial_weights, save_weights

BYSTANDERS = 2
# What the village sees of a step, and whether the agent dies before the village has done it or before it hears so.
STEPS = [
    ("POST", r"/v1/device_registry/register_device", "after"),
    ("GET", r"/v1/blobs/", "before"),
    ("PUT", r"/v1/blobs/", "before"),
    ("PUT", r"/v1/blobs/", "after"),
    ("POST", r"/v1/federated_learning/submit_update", "before"),
    ("POST", r"/v1/federated_learning/submit_update", "after"),
]
ROUNDS = len(STEPS)

PROGRESS = """query Progress($session: UUID!) {
  trainingSession(sessionId: $session) { state }
  rounds(sessionId: $session, first: 100) { edges { node { number state participants } } }
}"""
ACCEPTED = """query Accepted($topics: [String!]) {
  events(first: 100, topics: $topics) { edges { node { stream state } } }
}"""


class Victim:
    """An agent process behind a proxy that kills it at the step whose turn it is, and starts it again."""

    def __init__(self, api_url: str, folder: Path, claim: str) -> None:
        self.folder, self.claim, self._upstream = folder, claim, httpx2.Client(base_url=api_url, timeout=60)
        self.left = list(STEPS)
        self.uploads: list[str] = []
        self.process: Command | None = None
        self.url = ""

    def start(self) -> None:
        words = ["device", "run", "--api", self.url, "--data", "mnist:0/20", "--state", str(self.folder)]
        self.process = Command(*words, "--claim", "-", stdin=f"{self.claim}\n")

    def answer(self, seen: Seen) -> Answer:
        """Pass a request on; kill the agent where it is due."""
        if seen.method == "PUT":
            self.uploads.append(seen.path)
        due = self.left[0] if self.left else None
        hit = due is not None and seen.method == due[0] and re.match(due[1], seen.path) is not None
        if hit:
            self.left.pop(0)
        if hit and due is not None and due[2] == "before":
            return self._kill()
        passed = {name: value for name, value in seen.headers.items() if name not in ("host", "connection")}
        response = self._upstream.request(seen.method, seen.path, content=seen.body, headers=passed)
        if hit:
            assert response.status_code < 300, response.text
            return self._kill()
        kept = {name: response.headers[name] for name in ("content-type", "retry-after") if name in response.headers}
        return Answer(response.status_code, response.content, kept)

    def _kill(self) -> Answer:
        assert self.process is not None
        self.process.kill()
        self.start()
        return Answer(drop=True)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
        self._upstream.close()


@pytest.fixture
def supervisor(short_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    for name in ("DATABASE_URL", "NATS_URL", "BLOB_URL", "PUBLIC_URL"):
        monkeypatch.setenv(f"VILLAGE_{name}", "")
    monkeypatch.setenv("VILLAGE_HOME", str(short_home / f"crash-{uuid4().hex[:8]}"))
    monkeypatch.setenv("VILLAGE_API_PORT", "0")
    running = Supervisor(Settings())
    running.start()
    yield running
    running.stop()


@pytest.fixture
def console(supervisor: Supervisor) -> Iterator[Console]:
    tokens = Tokens(load_keys(supervisor.settings.home))
    with Console(supervisor.url, tokens.issue(role="operator", subject="t", expires_in=timedelta(hours=1))) as console:
        yield console


@pytest.fixture
def bystanders(supervisor: Supervisor, console: Console, tmp_path: Path) -> Iterator[None]:
    folder = tmp_path / "bystanders"
    for index in range(BYSTANDERS):
        (folder / f"device-{index}").mkdir(parents=True)
        file = DeviceFile(data=f"mnist:{index + 1}/20", claim=claim(console))
        (folder / f"device-{index}" / DEVICE_FILE).write_bytes(msgspec.json.encode(file))
    host = Command("device", "host", str(folder), "--api", supervisor.url)
    yield
    assert host.stop() == 0, host.complained


@pytest.fixture
def victim(supervisor: Supervisor, console: Console, tmp_path: Path) -> Iterator[Victim]:
    victim = Victim(supervisor.url, tmp_path / "victim", claim(console))
    with village(victim.answer) as (url, _):
        victim.url = url
        victim.start()
        yield victim
        victim.stop()


def claim(console: Console) -> str:
    return str(console.command("/v1/device_registry/issue_claim", {"owner_id": str(uuid4())})["claim_code"])


def start_training(console: Console) -> str:
    manifest = mlp_manifest([784, 10])
    _, test = mnist_split()
    everyone = BYSTANDERS + 1
    policy = {"min_participants": everyone, "max_participants": everyone, "goal": everyone}
    body = {
        "name": "crash",
        "manifest": msgspec.to_builtins(manifest),
        "base_model_hash": console.put_blob(save_weights(initial_weights(manifest, 1))),
        "evaluation_hash": console.put_blob(samples_blob(test)),
        "strategy": "fedavg",
        "rounds": ROUNDS,
        "round_policy": {**policy, "timeout_ms": 120_000, "clip_micro": 1_000_000, "weight_cap": 1_000},
        "training": {"epochs": 1, "batch_size": 20, "learning_rate": 0.1, "momentum": 0.0, "proximal_mu": 0.0},
        "criteria": {},
        "secure_aggregation": False,
        "epsilon": None,
    }
    return str(console.command("/v1/federated_learning/start_training", body)["id"])


def wait_online(console: Console, count: int, timeout_s: float = 180.0) -> None:
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        edges = console.query("{ devices(first: 100) { edges { node { presence } } } }")["devices"]["edges"]
        if [edge["node"]["presence"] for edge in edges].count("online") >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"{count} devices are not online after {timeout_s} s")


def wait_completed(console: Console, session_id: str, timeout_s: float = 300.0) -> list[dict[str, Any]]:
    ends, seen = time.monotonic() + timeout_s, {}
    while time.monotonic() < ends:
        seen = dict(console.query(PROGRESS, session=session_id))
        if seen["trainingSession"] is not None and seen["trainingSession"]["state"] == "completed":
            return [edge["node"] for edge in seen["rounds"]["edges"]]
        time.sleep(0.3)
    raise AssertionError(f"not completed after {timeout_s} s: {seen}")


@pytest.mark.slow
def test_an_agent_killed_at_every_step_goes_on_and_no_round_loses_or_doubles_its_update(
    console: Console, bystanders: None, victim: Victim
) -> None:
    wait_online(console, BYSTANDERS + 1)
    rounds = wait_completed(console, start_training(console))
    assert victim.left == []
    assert [(one["state"], one["participants"]) for one in rounds] == [("completed", BYSTANDERS + 1)] * ROUNDS
    accepted = console.query(ACCEPTED, topics=["federated_learning.TrainingRound.UpdateAccepted"])["events"]["edges"]
    device_id = known_as(victim.folder)
    updates = Counter(edge["node"]["stream"] for edge in accepted if edge["node"]["state"]["device_id"] == device_id)
    assert sorted(updates.values()) == [1] * ROUNDS
    # What was trained again, or sent again, were the same bytes: one blob for each round.
    assert len(set(victim.uploads)) == ROUNDS < len(victim.uploads)


def known_as(folder: Path) -> str:
    identity = msgspec.json.decode((folder / "identity.json").read_bytes(), type=Identity)
    assert isinstance(identity.device_id, UUID)
    return str(identity.device_id)
