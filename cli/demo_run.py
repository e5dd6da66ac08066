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
from typing import Any, Protocol
from uuid import UUID, uuid5

import msgspec

from cli.children import ROOT
from cli.console import Console
from cli.demo_harvest import LENDERS
from cli.demo_market import REGION, SOLD
from cli.demo_progress import DemoFailed, DemoStopped, Progress, nodes, progress_of
from cli.device import DEVICE_FILE, DeviceFile, Lending
from domain.federated_learning.manifest import mlp_manifest
from infrastructure.embedded.process import die_with_parent, stop
from workers.device_agent.data import mnist_shards, mnist_split, samples_blob
from workers.device_agent.state import write_private
from workers.models import initial_weights, save_weights

LAYERS = [784, 200, 200, 10]
MODEL_SEED = 1
POLL_S = 0.5
SETTLE_S = 90.0
_OWNERS = UUID("6f6a3a52-5f5e-5c38-8d39-6ad31f3c8a54")
SELLER_ID = uuid5(_OWNERS, "seller")
_GENTLE_STOP_S = 10.0

Agents = Sequence[subprocess.Popen[bytes]]

ONLINE = "query Online { devices(first: 100) { edges { node { deviceId ownerId presence } } } }"
WALLET = "query Wallet($owner: UUID!) { wallet(ownerId: $owner) { postedGrains heldGrains } }"
SUPPLY = "query Supply { supply { issuedGrains totalGrains driftGrains conserved } }"


@dataclass(frozen=True)
class Host:
    """One agent process: the folder of its devices, and what it is told beside."""

    folder: Path
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The size of a demo: `devices` train; `beside` them others lend themselves, and some are sold."""

    devices: int
    rounds: int
    processes: int
    round_timeout_ms: int = 60_000
    beside: bool = True

    @property
    def everyone(self) -> int:
        """All devices, whatever they do."""
        return self.devices + self.beside * (len(LENDERS) + SOLD)


class Beside(Protocol):
    """What goes on beside the training."""

    def over(self, seen: Progress, *, trained: bool) -> bool:
        """Whether it has come to its end; asked again and again. Raises VillageError."""


@dataclass(frozen=True)
class Run:
    """One run of the demo at one village; `stopping` ends every wait."""

    console: Console
    plan: Plan
    stopping: threading.Event

    def claim_devices(self, folder: Path) -> list[Host]:
        """Get a claim for every device and lay out its folder; answers the processes, that of the sold ones last."""
        hosts = [folder / f"process-{number}" for number in range(self.plan.processes)]
        for index in range(self.plan.devices):
            data = f"mnist:{index}/{self.plan.devices}"
            self._claim(hosts[index % self.plan.processes] / f"device-{index:02d}", owner_of(index), data=data)
        trainers = [Host(host) for host in hosts if host.is_dir()]
        if not self.plan.beside:
            return trainers
        for index, lender in enumerate(LENDERS):
            place = trainers[index % len(trainers)].folder / f"lender-{index}"
            self._claim(place, lender.owner_id, region="home", lay_out=lender.lay_out)
        seller = folder / "seller"
        for index in range(SOLD):
            self._claim(seller / f"device-{index}", SELLER_ID, region=REGION)
        return [*trainers, Host(seller, ("--jobs", "--heartbeat", "2"))]

    def _claim(
        self,
        place: Path,
        owner_id: UUID,
        *,
        data: str | None = None,
        region: str = "local",
        lay_out: Callable[[Path], Lending] | None = None,
    ) -> None:
        answer = self.console.command("/v1/device_registry/issue_claim", {"owner_id": str(owner_id)})
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        harvest = None if lay_out is None else lay_out(place)
        known = DeviceFile(data, answer["claim_code"], "laptop", region, harvest)
        write_private(place / DEVICE_FILE, msgspec.json.encode(known))

    def devices_of(self, owner_id: UUID) -> list[UUID]:
        """The enrolled devices of an owner."""
        devices = nodes(self.console.query(ONLINE)["devices"])
        return [UUID(device["deviceId"]) for device in devices if device["ownerId"] == str(owner_id)]

    def wallet(self, owner_id: UUID) -> tuple[int, int]:
        """What the wallet of an owner has posted and held, in grains; zeros where there is none."""
        found = self.console.query(WALLET, owner=str(owner_id))["wallet"]
        return (0, 0) if found is None else (int(found["postedGrains"]), int(found["heldGrains"]))

    def wait_online(self, agents: Agents, timeout_s: float = 120.0) -> None:
        """Wait until every device is online. Raises DemoFailed after `timeout_s`, or DemoStopped."""
        ends, online = time.monotonic() + timeout_s, 0
        while time.monotonic() < ends:
            edges = self.console.query(ONLINE)["devices"]["edges"]
            online = sum(edge["node"]["presence"] == "online" for edge in edges)
            if online >= self.plan.everyone:
                return
            self._pause(agents)
        raise DemoFailed(f"{online} of {self.plan.everyone} devices are online after {timeout_s:.0f} s")

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
        """Where everything stands now. Raises VillageError."""
        return progress_of(self.console, session_id)

    def follow(
        self,
        session_id: UUID,
        agents: Agents,
        show: Callable[[Progress], None],
        timeout_s: float,
        beside: Beside | None = None,
    ) -> Progress:
        """Show the demo until the training and all beside it have ended and everything earned is paid.

        Answers the last progress. After the training it waits a bounded time for the rest. Raises DemoFailed after
        `timeout_s`, when the session is abandoned or when an agent process has ended, and DemoStopped.
        """
        ends, completed = time.monotonic() + timeout_s, False
        while True:
            seen = self.progress(session_id)
            show(seen)
            if seen.state == "abandoned":
                raise DemoFailed("the training was abandoned")
            if seen.state == "completed" and not completed:
                completed, ends = True, time.monotonic() + SETTLE_S
            over = beside is None or beside.over(seen, trained=completed)
            if completed and ((over and seen.settled and not seen.pending_grains) or time.monotonic() > ends):
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


def owner_of(index: int) -> UUID:
    """Who owns a device that trains."""
    return uuid5(_OWNERS, f"owner-{index}")


@contextmanager
def running_agents(hosts: Sequence[Host], api_url: str) -> Iterator[Agents]:
    """Run one agent process per folder; they end with this block, and with this process."""
    agents = [_start_agent(host, api_url) for host in hosts]
    try:
        yield agents
    finally:
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
        for agent in agents:
            stop(agent, [(signal.SIGTERM, _GENTLE_STOP_S)])


def _start_agent(host: Host, api_url: str) -> subprocess.Popen[bytes]:
    descriptor = os.open(host.folder / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "cli.main",
                "device",
                "host",
                str(host.folder),
                "--api",
                api_url,
                "--json",
                *host.words,
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
