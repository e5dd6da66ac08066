"""Chaos: a whole village under load while its processes and servers are killed, frozen and restarted at random.

Afterwards every acknowledged command is in the log once, every read model equals its rebuild, the supply is conserved
to the grain, the audit verifies, and feed and bus have told every fact once and in order.
`python -m tests.simulation.chaos --seconds 600` runs the long form and prints what happened as JSON.
"""

import argparse
import json
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from api.edge.principals import Tokens
from cli.console import Console, VillageError
from cli.demo_progress import Progress
from cli.demo_run import Agents, Plan, Run, running_agents
from infrastructure.database import Database
from infrastructure.keys import load_keys
from tests.cli.villages import Running, environment, eventually, running
from tests.economy import Economy
from tests.simulation.chaos_load import PATIENT, Follower, Member, owners
from tests.simulation.chaos_proof import prove

PROCESSES = ("main api", "worker projector", "worker saga-runner", "worker aggregator", "worker clock")
SERVERS = ("postgres", "nats-server")
MEMBERS = 4
GIVEN_GRAINS = 10**9
TRAINING_S = 600.0
"""How long one training may take; each is followed by another until the storm is over."""


class PatientRun(Run):
    """A client of the training that asks again while the village is hurt, until a part of it stays down."""

    storm: "Storm | None" = None

    def progress(self, session_id: UUID) -> Progress:
        for _ in range(60):
            try:
                return super().progress(session_id)
            except VillageError:
                if self.storm is not None:
                    self.storm.raise_failure()
                time.sleep(1)
        return super().progress(session_id)


class Storm(threading.Thread):
    """One deed after the other, in random order, all of them in every pass; ends when told to, after a whole pass,
    or after so many of them.

    A restart is SIGINT, as an operator or the system would ask: Postgres shuts down fast, NATS at once.
    """

    def __init__(self, village: Running, seed: int, pause_s: float, passes: int | None = None) -> None:
        super().__init__(name="storm")
        self.done: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        self._village = village
        self._chance = random.Random(seed)
        self._pause_s = pause_s
        self._passes = count() if passes is None else range(passes)
        self._deeds: dict[str, Callable[[], None]] = {
            **{f"kill {words}": partial(village.kill, words) for words in (*PROCESSES, *SERVERS)},
            **{f"freeze {words}": partial(self._freeze, words) for words in PROCESSES},
            **{f"restart {words}": partial(village.kill, words, signal.SIGINT) for words in SERVERS},
        }

    def run(self) -> None:
        try:
            for _ in self._passes:
                if self.stopping.is_set() and self.done:
                    return
                for deed in self._chance.sample(sorted(self._deeds), len(self._deeds)):
                    time.sleep(self._pause_s * self._chance.uniform(0.2, 1.8))
                    self._deeds[deed]()
                    self.done[deed] += 1
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        """Raises what made it fail: a part that was not started again in time."""
        self.stopping.set()
        self.join(300)
        assert not self.is_alive(), "the storm does not end"
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raises what made it fail, if anything did."""
        if self.failure is not None:
            raise self.failure

    def _freeze(self, words: str) -> None:
        """It sleeps in the middle of whatever it does, and goes on as if nothing had been."""
        with suppress(psutil.NoSuchProcess):
            frozen = psutil.Process(self._village.await_pid_of(words))
            frozen.suspend()
            time.sleep(self._chance.uniform(0.5, 5 * self._pause_s))
            frozen.resume()


class Chaos:
    """One run on a new village in `home`; the storm ends after `passes`, or when the trainings of `seconds` do."""

    def __init__(
        self, home: Path, *, seconds: float, seed: int, pause_s: float, rounds: int, passes: int | None = None
    ) -> None:
        self._home = home
        self._seconds = seconds
        self._seed = seed
        self._pause_s = pause_s
        self._passes = passes
        self._plan = Plan(devices=4, rounds=rounds, processes=2, round_timeout_ms=120_000, beside=False)

    def run(self) -> dict[str, Any]:
        """Load, storm, calm, and the proofs. Raises AssertionError when something was lost, doubled or out of order."""
        settings = environment(self._home, max_participants_per_round=str(self._plan.devices))
        with running(settings) as village:
            token = Tokens(load_keys(self._home)).issue(role="operator", subject="chaos", expires_in=timedelta(hours=2))
            database_url = (self._home / "database.url").read_text().strip()
            self._fund(database_url)
            members = [Member(number, village.url, token, owners(MEMBERS), pause_s=0.1) for number in range(MEMBERS)]
            follower, storm = Follower(village.url, token), Storm(village, self._seed, self._pause_s, self._passes)
            with Console(village.url, token, PATIENT) as console, self._devices(console, village) as (run, agents):
                for load in (*members, follower):
                    load.start()
                sessions = self._trained_through(storm, run, agents)
                for member in members:
                    member.stop()
                assert eventually(village.ready, 60), "the village is not ready after the storm"
                supply = self._settled(run, sessions[-1])
            report = prove(
                self._home,
                database_url,
                acknowledged=[one for member in members for one in member.acknowledged],
                supply=supply,
                rounds=dict.fromkeys(sessions, self._plan.rounds),
                follower=follower,
            )
        return {**report, "feed_cuts": follower.cuts, "trainings": len(sessions), **storm.done}

    def _fund(self, database_url: str) -> None:
        with Database(database_url, pool_size=2, application="chaos") as database:
            economy = Economy(database_url, database)
            for owner_id in owners(MEMBERS):
                economy.given(GIVEN_GRAINS, owner_id)
            economy.log.close()

    @contextmanager
    def _devices(self, console: Console, village: Running) -> Iterator[tuple[PatientRun, Agents]]:
        run = PatientRun(console, self._plan, threading.Event())
        with running_agents(run.claim_devices(self._home / "devices"), village.url) as agents:
            run.wait_online(agents, 120)
            yield run, agents

    def _trained_through(self, storm: Storm, run: PatientRun, agents: Agents) -> list[UUID]:
        """Trainings one after the other while the storm rages; it ends with the first one that ends late enough."""
        ends, sessions = time.monotonic() + self._seconds, list[UUID]()
        with ExitStack() as after:
            run.storm = storm
            storm.start()
            after.callback(storm.stop)
            while storm.failure is None and (not sessions or time.monotonic() < ends):
                sessions.append(run.start_training())
                run.follow(sessions[-1], agents, lambda progress: storm.raise_failure(), TRAINING_S)
        return sessions

    @staticmethod
    def _settled(run: Run, session_id: UUID) -> Mapping[str, Any]:
        assert eventually(lambda: run.progress(session_id).settled, 60), "the read models do not catch up"
        return run.supply()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=4.0, help="seconds between two deeds, on average")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each training")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="village-chaos-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        chaos = Chaos(
            Path(folder) / "home", seconds=given.seconds, seed=given.seed, pause_s=given.pause, rounds=given.rounds
        )
        print(json.dumps(chaos.run()))


if __name__ == "__main__":
    main()
