"""The aggregator as a real process, killed with SIGKILL: it comes back and gives the same bits, once."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import UUID

import pytest

from domain.federated_learning.manifest import mlp_manifest
from domain.federated_learning.round import COMPLETED, TrainingRound
from infrastructure.database import Database
from tests.training import arrays, blob_of
from tests.workers.aggregator.test_worker import AggregatorWorld

MANIFEST = mlp_manifest([256, 512, 256, 10])
TIMEOUT_S = 60.0


@pytest.fixture
def world(database_url: str, database: Database, tmp_path: Path) -> Iterator[AggregatorWorld]:
    world = AggregatorWorld(database_url, database, tmp_path)
    yield world
    world.close()


@contextmanager
def aggregating(world: AggregatorWorld, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that aggregates; it is killed at the end of the block, if not before."""
    with output.open("wb") as log:
        command = [sys.executable, "-m", "tests.workers.aggregator.process"]
        child = start([*command, world.database.url, str(world.folder.parent)], log)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def start(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def wait(until: Callable[[], bool], output: Path) -> None:
    ends = time.monotonic() + TIMEOUT_S
    while not until():
        assert time.monotonic() < ends, output.read_text()
        time.sleep(0.02)


def big_round(world: AggregatorWorld) -> UUID:
    """An open round of a model large enough to be killed over."""
    base = world.store.put_bytes(blob_of(arrays(MANIFEST, seed=99)))
    return world.open_round(manifest=MANIFEST, base_model_hash=base)


def outcome(world: AggregatorWorld, round_id: UUID) -> tuple[str, str]:
    """The hashes of a round's model and sum; there is one of each."""
    assert world.round(round_id).state_name == COMPLETED
    facts = [fact.event for fact in world.facts() if fact.stream == round_id]
    (aggregated,) = [event for event in facts if isinstance(event, TrainingRound.Aggregated)]
    assert sum(isinstance(event, TrainingRound.Completed) for event in facts) == 1
    return aggregated.model_hash, aggregated.accumulator_hash


def undisturbed(world: AggregatorWorld) -> tuple[str, str]:
    """What the same updates give when nothing happens."""
    round_id = big_round(world)
    world.answer(round_id)
    world.aggregate()
    return outcome(world, round_id)


def test_killed_in_mid_round_it_resumes_and_gives_the_same_bits(world: AggregatorWorld, tmp_path: Path) -> None:
    wanted, round_id = undisturbed(world), big_round(world)
    devices, output = world.training.get_selected_participants(round_id=round_id), tmp_path / "first.log"
    with aggregating(world, output) as child:
        for device_id in devices[:2]:
            world.submit(round_id, device_id)
        wait(lambda: "updates=2" in output.read_text(), output)
        child.kill()
    world.submit(round_id, devices[2])
    output = tmp_path / "second.log"
    with aggregating(world, output):
        wait(lambda: world.round(round_id).state_name == COMPLETED, output)
    assert outcome(world, round_id) == wanted


def test_killed_again_and_again_while_it_makes_the_model_it_records_it_once(
    world: AggregatorWorld, tmp_path: Path
) -> None:
    wanted, round_id, moments = undisturbed(world), big_round(world), random.Random(5)
    world.answer(round_id)
    for attempt in range(2):
        output = tmp_path / f"{attempt}.log"
        with aggregating(world, output) as child:
            wait(lambda: "update folded" in output.read_text() or world.round(round_id).ended, output)  # noqa: B023
            time.sleep(moments.uniform(0, 0.05))
            child.kill()
    with aggregating(world, output):
        wait(lambda: world.round(round_id).state_name == COMPLETED, output)
    assert outcome(world, round_id) == wanted
    world.aggregate()
    assert outcome(world, round_id) == wanted
