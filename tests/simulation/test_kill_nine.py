"""Training on a whole village while its processes and servers are killed: nothing is lost, nobody is paid twice."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from api.edge.principals import Tokens
from cli.console import Console, VillageError
from cli.demo_check import examine
from cli.demo_run import Plan, Progress, Run, running_agents
from domain.federated_learning.round import TrainingRound
from domain.tokenomics.reward_claim import RewardClaim
from domain.tokenomics.transfer import Transfer
from infrastructure.keys import load_keys
from tests.cli.villages import Running, environment, eventually, running
from tests.running import assert_sound, records
from workers.device_agent.client import RetryPolicy

pytestmark = pytest.mark.slow

PLAN = Plan(devices=4, rounds=10, processes=2, round_timeout_ms=120_000)
FIRST = ["main api", "worker projector", "worker saga-runner", "worker aggregator"]
VICTIMS = [*FIRST, "worker clock", "postgres"]
PAUSE_S = (0.5, 1.5)
TIMEOUT_S = 420.0


class Killer(threading.Thread):
    """kill -9 of one part after the other, in random order, until told to stop; first come the parts of `FIRST`."""

    def __init__(self, village: Running, seed: int) -> None:
        super().__init__(name="killer")
        self.village = village
        self.killed: Counter[str] = Counter()
        self.stopping = threading.Event()
        self._dice = random.Random(seed)

    def run(self) -> None:
        order = self._dice.sample(FIRST, len(FIRST)) + VICTIMS[len(FIRST) :]
        while not self.stopping.is_set():
            for victim in order:
                if self.stopping.wait(self._dice.uniform(*PAUSE_S)):
                    return
                self.village.kill(victim)
                self.killed[victim] += 1
                eventually(self.village.ready, 60)
            order = self._dice.sample(VICTIMS, len(VICTIMS))

    def stop(self) -> None:
        self.stopping.set()
        self.join(60)


class PatientRun(Run):
    """A client that asks again while the database is down."""

    def progress(self, session_id: UUID) -> Progress:
        for _ in range(60):
            try:
                return super().progress(session_id)
            except VillageError:
                time.sleep(1)
        return super().progress(session_id)


class Trained:
    """What was left after the training."""

    def __init__(
        self, run: Run, last: Progress, database_url: str, killed: Counter[str], killed_in_training: set[str]
    ) -> None:
        self.outcome = examine(run, last, database_url, 0.0, 0.0)
        self.records = records(database_url)
        self.killed = killed
        self.killed_in_training = killed_in_training

    def events(self, *kinds: type[Any]) -> list[Any]:
        topics = {kind.TOPIC for kind in kinds}
        return [record.fact().event for record in self.records if record.topic in topics]


@pytest.fixture(scope="module")
def trained(short_home: Path) -> Iterator[Trained]:
    home = short_home / "kill-nine"
    with running(environment(home, max_participants_per_round=str(PLAN.devices))) as village:
        token = Tokens(load_keys(home)).issue(role="operator", subject="test", expires_in=timedelta(hours=1))
        database_url = (home / "database.url").read_text().strip()
        patient = RetryPolicy(attempts=40, cap_s=2.0)
        with Console(village.url, token, patient) as console:
            run = PatientRun(console, PLAN, threading.Event())
            hosts = run.claim_devices(home / "devices")
            with running_agents(hosts, village.url) as agents:
                run.wait_online(agents, 120)
                session_id = run.start_training()
                killer = Killer(village, seed=20_261_124)
                killer.start()
                try:
                    last = run.follow(session_id, agents, lambda progress: None, TIMEOUT_S)
                    in_training = set(killer.killed)
                    _until_every_victim_was_killed(killer)
                finally:
                    killer.stop()
                assert eventually(village.ready, 60)
                assert eventually(lambda: run.progress(session_id).settled, 60)
                yield Trained(run, last, database_url, killer.killed, in_training)


def _until_every_victim_was_killed(killer: Killer) -> None:
    until = time.monotonic() + 120
    while len(killer.killed) < len(VICTIMS) and killer.is_alive() and time.monotonic() < until:
        time.sleep(0.2)


def test_every_part_was_killed_at_least_once(trained: Trained) -> None:
    assert set(trained.killed) == set(VICTIMS)
    assert set(FIRST) <= trained.killed_in_training, "killed only when all was done already"


def test_all_rounds_complete_all_devices_are_paid_and_the_read_models_equal_their_rebuild(trained: Trained) -> None:
    assert [check for check in trained.outcome.checks if not check.ok] == []


def test_the_log_is_whole(trained: Trained) -> None:
    assert_sound(trained.records)


def test_every_round_is_aggregated_and_completed_once(trained: Trained) -> None:
    completed = trained.events(TrainingRound.Completed)
    assert sorted(event.number for event in completed) == list(range(1, PLAN.rounds + 1))
    assert len(trained.events(TrainingRound.Aggregated)) == PLAN.rounds


def test_every_update_that_counted_has_one_claim_and_one_payment(trained: Trained) -> None:
    survivors = Counter(
        (event.originator_id, device_id)
        for event in trained.events(TrainingRound.Sealed)
        for device_id in event.survivors
    )
    accrued = trained.events(RewardClaim.Accrued)
    assert Counter((event.activity_id, event.device_id) for event in accrued) == survivors
    posted = Counter(event.originator_id for event in trained.events(RewardClaim.Posted))
    assert posted == Counter(event.originator_id for event in accrued)


def test_the_transfers_pay_what_the_claims_earned_to_the_grain(trained: Trained) -> None:
    earned = sum(event.grains for event in trained.events(RewardClaim.Accrued))
    rewards = [event for event in trained.events(Transfer.Posted) if "reward" in event.kind]
    assert sum(leg.grains for event in rewards for leg in event.legs if leg.grains > 0) == earned
