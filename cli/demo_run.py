"""The steps of the demo, each over the same HTTP any client uses."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import msgspec

from cli.children import ROOT
from cli.console import Console
from cli.device import DEVICE_FILE, DeviceFile
from domain.federated_learning.manifest import mlp_manifest
from infrastructure.embedded.process import die_with_parent, stop
from workers.device_agent.data import mnist_shards, mnist_split, samples_blob
from workers.device_agent.state import write_private
from workers.models import initial_weights, save_weights

LAYERS = [784, 200, 200, 10]
MODEL_SEED = 1
POLL_S = 0.5
SETTLE_S = 60.0
_OWNERS = UUID("6f6a3a52-5f5e-5c38-8d39-6ad31f3c8a54")
_GENTLE_STOP_S = 10.0

Agents = Sequence[subprocess.Popen[bytes]]

PROGRESS = """query Progress($session: UUID!) {
  trainingSession(sessionId: $session) { state currentRound }
  rounds(sessionId: $session, first: 100) {
    edges { node { number state participants accepted accuracy loss durationMs } }
  }
  devicePayouts(first: 100) { edges { node { deviceId claims paidGrains pendingGrains } } }
  projections { name position head lag }
}"""
ONLINE = "query Online { devices(first: 100) { edges { node { deviceId presence } } } }"
SUPPLY = "query Supply { supply { issuedGrains totalGrains driftGrains conserved } }"


class DemoFailed(Exception):
    """A step of the demo did not come to its end."""


class DemoStopped(Exception):
    """The demo was asked to stop."""


@dataclass(frozen=True)
class Plan:
    """The size of a demo."""

    devices: int
    rounds: int
    processes: int
    round_timeout_ms: int = 60_000


class Round(msgspec.Struct, frozen=True, rename="camel"):
    """One round as the read side shows it."""

    number: int
    state: str
    participants: int
    accepted: int
    accuracy: float | None
    loss: float | None
    duration_ms: int | None


class Payout(msgspec.Struct, frozen=True, rename="camel"):
    """What one device has earned, in grains."""

    device_id: UUID
    claims: int
    paid_grains: str
    pending_grains: str


@dataclass(frozen=True)
class Progress:
    """Where the training stands; `head` is the newest position of the log, `settled` that every read model is there."""

    state: str
    rounds: Sequence[Round]
    payouts: Sequence[Payout]
    head: int
    settled: bool

    @property
    def completed(self) -> list[Round]:
        """The rounds that ended well, oldest first."""
        return [one for one in self.rounds if one.state == "completed"]

    @property
    def paid_grains(self) -> int:
        """Everything paid to devices so far."""
        return sum(int(payout.paid_grains) for payout in self.payouts)

    @property
    def pending_grains(self) -> int:
        """Everything earned and not paid yet."""
        return sum(int(payout.pending_grains) for payout in self.payouts)


@dataclass(frozen=True)
class Run:
    """One run of the demo at one village; `stopping` ends every wait."""

    console: Console
    plan: Plan
    stopping: threading.Event

    def claim_devices(self, folder: Path) -> list[Path]:
        """Get a claim for every device and lay out its folder; answers one folder for each process."""
        hosts = [folder / f"process-{number}" for number in range(self.plan.processes)]
        for index in range(self.plan.devices):
            owner_id = str(uuid5(_OWNERS, f"owner-{index}"))
            answer = self.console.command("/v1/device_registry/issue_claim", {"owner_id": owner_id})
            device = hosts[index % self.plan.processes] / f"device-{index:02d}"
            device.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = f"mnist:{index}/{self.plan.devices}"
            known = DeviceFile(data=data, claim=answer["claim_code"], device_type="laptop")
            write_private(device / DEVICE_FILE, msgspec.json.encode(known))
        return [host for host in hosts if host.is_dir()]

    def wait_online(self, agents: Agents, timeout_s: float = 120.0) -> None:
        """Wait until every device is online. Raises DemoFailed after `timeout_s`, or DemoStopped."""
        ends, online = time.monotonic() + timeout_s, 0
        while time.monotonic() < ends:
            edges = self.console.query(ONLINE)["devices"]["edges"]
            online = sum(edge["node"]["presence"] == "online" for edge in edges)
            if online >= self.plan.devices:
                return
            self._pause(agents)
        raise DemoFailed(f"{online} of {self.plan.devices} devices are online after {timeout_s:.0f} s")

    def start_training(self) -> UUID:
        """Upload the first model and the evaluation digits, and start the session; answers its id."""
        manifest = mlp_manifest(LAYERS)
        _, test = mnist_split()
        body = {
            "name": "MNIST digits",
            "manifest": msgspec.to_builtins(manifest),
            "base_model_hash": self.console.put_blob(save_weights(initial_weights(manifest, MODEL_SEED))),
            "evaluation_hash": self.console.put_blob(samples_blob(test)),
            "strategy": "fedavg",
            "rounds": self.plan.rounds,
            "round_policy": {
                "min_participants": max(2, self.plan.devices * 3 // 5),
                "max_participants": self.plan.devices,
                "goal": self.plan.devices,
                "timeout_ms": self.plan.round_timeout_ms,
                "clip_micro": 1_000_000,
                "weight_cap": max(len(rows) for rows in mnist_shards(self.plan.devices)),
            },
            "training": {"epochs": 2, "batch_size": 20, "learning_rate": 0.1, "momentum": 0.0, "proximal_mu": 0.0},
            "criteria": {"required_frameworks": ["pytorch"]},
            "secure_aggregation": False,
            "epsilon": None,
        }
        return UUID(self.console.command("/v1/federated_learning/start_training", body)["id"])

    def progress(self, session_id: UUID) -> Progress:
        """Where the training stands now."""
        data = self.console.query(PROGRESS, session=str(session_id))
        session = data["trainingSession"] or {"state": "starting"}
        cursors = data["projections"]
        return Progress(
            state=session["state"],
            rounds=sorted(msgspec.convert(_nodes(data["rounds"]), list[Round]), key=lambda one: one.number),
            payouts=msgspec.convert(_nodes(data["devicePayouts"]), list[Payout]),
            head=max((int(cursor["head"]) for cursor in cursors), default=0),
            settled=all(int(cursor["lag"]) == 0 for cursor in cursors),
        )

    def follow(self, session_id: UUID, agents: Agents, show: Callable[[Progress], None], timeout_s: float) -> Progress:
        """Show the training until it has ended and everything earned is paid; answers the last progress.

        After the end it waits a bounded time for what is pending. Raises DemoFailed after `timeout_s`, when the session
        is abandoned or when an agent process has ended, and DemoStopped.
        """
        ends, completed = time.monotonic() + timeout_s, False
        while True:
            seen = self.progress(session_id)
            show(seen)
            if seen.state == "abandoned":
                raise DemoFailed("the training was abandoned")
            if seen.state == "completed" and not completed:
                completed, ends = True, time.monotonic() + SETTLE_S
            if completed and ((seen.settled and not seen.pending_grains) or time.monotonic() > ends):
                return seen
            if time.monotonic() > ends:
                raise DemoFailed(f"the training did not end in {timeout_s:.0f} s")
            self._pause(agents)

    def supply(self) -> Mapping[str, Any]:
        """The supply as the ledger sums it up."""
        found: Mapping[str, Any] = self.console.query(SUPPLY)["supply"]
        return found

    def _pause(self, agents: Agents) -> None:
        if self.stopping.wait(POLL_S):
            raise DemoStopped
        ended = [agent.args for agent in agents if agent.poll() is not None]
        if ended:
            raise DemoFailed(f"{len(ended)} agent processes have ended: see devices/*/agent.log")


@contextmanager
def running_agents(hosts: Sequence[Path], api_url: str) -> Iterator[Agents]:
    """Run one agent process per folder; they end with this block, and with this process."""
    agents = [_start_agent(host, api_url) for host in hosts]
    try:
        yield agents
    finally:
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
        for agent in agents:
            stop(agent, [(signal.SIGTERM, _GENTLE_STOP_S)])


def _start_agent(host: Path, api_url: str) -> subprocess.Popen[bytes]:
    descriptor = os.open(host / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.main", "device", "host", str(host), "--api", api_url, "--json"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )


def _nodes(connection: Mapping[str, Any]) -> list[Any]:
    return [edge["node"] for edge in connection["edges"]]
