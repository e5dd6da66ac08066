"""The aggregator on a real log and blob store: exact, resumable, and not stopped by a bad blob."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load, save

from domain.federated_learning.round import ABANDONED, COMPLETED, OPEN, TrainingRound
from domain.federated_learning.session import COMPLETED as SESSION_COMPLETED
from infrastructure.blobs import BlobStore
from infrastructure.database import Database, Role
from tests.training import MANIFEST, POLICY, arrays
from tests.training_world import TrainingWorld
from workers.aggregator.worker import Aggregator


class AggregatorWorld(TrainingWorld):
    """A world whose blobs lie on disk, with aggregators that come and go."""

    def __init__(self, url: str, database: Database, home: Path) -> None:
        self.store = BlobStore.open(None, home=home)
        self.store.put = self.store.put_bytes  # type: ignore[method-assign, assignment]
        self.folder = home / "blobs"
        super().__init__(url, database, blobs=self.store)

    def aggregator(self) -> Aggregator:
        """An aggregator that has just been started."""
        return Aggregator(self.log, self.database, self.training, self.store)

    def aggregate(self) -> None:
        """A new aggregator handles everything that stands."""
        aggregator = self.aggregator()
        aggregator.run_once()
        aggregator.close()

    def damage(self, round_id: UUID, device_id: UUID) -> None:
        """Flip a bit of a stored update."""
        blob_hash = self.round(round_id).updates[device_id].blob_hash
        path = self.folder / blob_hash[:2] / blob_hash
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)

    def lose(self, round_id: UUID, device_id: UUID) -> None:
        """Remove a stored update."""
        blob_hash = self.round(round_id).updates[device_id].blob_hash
        (self.folder / blob_hash[:2] / blob_hash).unlink()

    def model(self, model_hash: str) -> dict[str, np.ndarray]:
        """A stored model."""
        return load(self.store.read(model_hash, 0, self.store.size(model_hash)))

    def fact(self, round_id: UUID, kind: type) -> list[object]:
        """The facts of one kind about a round."""
        return [fact.event for fact in self.facts() if fact.stream == round_id and isinstance(fact.event, kind)]


@pytest.fixture
def world(database_url: str, database: Database, tmp_path: Path) -> Iterator[AggregatorWorld]:
    world = AggregatorWorld(database_url, database, tmp_path)
    yield world
    world.close()


def expected(world: AggregatorWorld, round_id: UUID) -> dict[str, np.ndarray]:
    """base + weighted mean of the survivors' updates, in float64."""
    done = world.round(round_id)
    base = world.model(done.model_hash)
    weights = {device_id: min(done.updates[device_id].examples, POLICY.weight_cap) for device_id in done.survivors}
    updates = {device_id: arrays(MANIFEST, seed=device_id.int) for device_id in done.survivors}
    total = sum(weights.values())
    return {
        name: base[name] + sum(weights[d] * updates[d][name].astype(np.float64) for d in weights) / total
        for name in base
    }


def assert_is_mean(world: AggregatorWorld, round_id: UUID) -> None:
    done = world.round(round_id)
    assert done.state_name == COMPLETED
    assert done.new_model_hash is not None
    model = world.model(done.new_model_hash)
    for name, array in expected(world, round_id).items():
        assert model[name].dtype == np.float32
        np.testing.assert_allclose(model[name], array, rtol=0, atol=1e-7)


def test_a_sealed_round_gets_the_weighted_mean_of_its_updates(world: AggregatorWorld) -> None:
    round_id = world.open_round()
    world.answer(round_id)
    world.aggregate()
    assert_is_mean(world, round_id)
    session = world.session(world.round(round_id).session_id)
    assert session.model_hash == world.round(round_id).new_model_hash


def test_sagas_and_aggregator_take_a_session_to_its_end(world: AggregatorWorld) -> None:
    samples = {"x": np.eye(4, dtype=np.float32), "y": np.array([0, 1, 0, 1])}
    session_id = world.start(rounds=3, evaluation_hash=world.store.put_bytes(save(samples)))
    aggregator = world.aggregator()
    for _ in range(3):
        world.settle()
        round_id = world.opened(session_id)
        world.answer(round_id)
        aggregator.run_once()
        assert_is_mean(world, round_id)
    world.settle()
    aggregator.run_once()
    aggregator.close()
    assert world.session(session_id).state_name == SESSION_COMPLETED
    completed = [fact.event for fact in world.facts() if isinstance(fact.event, TrainingRound.Completed)]
    assert [set(event.model_metrics) for event in completed] == [{"accuracy", "loss"}] * 3


def test_folding_as_updates_come_gives_the_same_bits_as_folding_at_the_end(world: AggregatorWorld) -> None:
    session_id = world.start(rounds=1)
    world.settle()
    round_id = world.opened(session_id)
    live = world.aggregator()
    for device_id in reversed(world.training.get_selected_participants(round_id=round_id)[:3]):
        world.submit(round_id, device_id)
        live.run_once()
    live.close()
    live_hash = world.round(round_id).new_model_hash
    other = world.open_round(base_model_hash=world.round(round_id).model_hash)
    world.answer(other)
    world.aggregate()
    assert world.round(other).new_model_hash == live_hash
    first, second = (world.fact(r, TrainingRound.Aggregated)[0] for r in (round_id, other))
    assert first.accumulator_hash == second.accumulator_hash  # type: ignore[attr-defined]


def test_an_aggregator_that_comes_back_in_mid_round_folds_again_and_records_nothing_twice(
    world: AggregatorWorld,
) -> None:
    round_id = world.open_round()
    devices = world.training.get_selected_participants(round_id=round_id)
    world.submit(round_id, devices[0])
    world.aggregate()
    world.submit(round_id, devices[1])
    world.aggregate()
    world.submit(round_id, devices[2])
    world.aggregate()
    assert_is_mean(world, round_id)
    head = world.log.head()
    with world.database.writer.connection() as connection:
        connection.execute("UPDATE engine.cursors SET position = 0 WHERE name = 'aggregator'")
    world.aggregate()
    assert world.log.head() == head


def test_an_aggregator_finishes_the_rounds_that_lie_before_its_cursor(world: AggregatorWorld) -> None:
    sealed, open_still = world.open_round(), world.open_round()
    world.answer(sealed)
    world.answer(open_still, devices=2)
    with world.database.connect(Role.WRITER) as connection:
        connection.execute("INSERT INTO engine.cursors (name, position) VALUES ('aggregator', %s)", (world.log.head(),))
    aggregator = world.aggregator()
    aggregator.run_once()
    assert_is_mean(world, sealed)
    world.submit(open_still, world.training.get_selected_participants(round_id=open_still)[2])
    aggregator.run_once()
    aggregator.close()
    assert_is_mean(world, open_still)


@pytest.mark.parametrize("harm", ["damage", "lose"])
def test_an_update_that_cannot_be_read_is_rejected_and_the_round_goes_on(world: AggregatorWorld, harm: str) -> None:
    round_id = world.open_round()
    world.answer(round_id)
    victim = world.round(round_id).survivors[1]
    getattr(world, harm)(round_id, victim)
    world.aggregate()
    assert_is_mean(world, round_id)
    (rejected,) = world.fact(round_id, TrainingRound.UpdateRejected)
    assert rejected.device_id == victim  # type: ignore[attr-defined]
    assert rejected.reason == {"damage": "blob_hash_mismatch", "lose": "blob_not_found"}[harm]  # type: ignore[attr-defined]
    assert victim not in world.round(round_id).survivors


def test_an_update_damaged_before_the_seal_is_rejected_while_the_round_is_open(world: AggregatorWorld) -> None:
    round_id = world.open_round()
    one, two, three, four = world.training.get_selected_participants(round_id=round_id)
    world.submit(round_id, one)
    world.lose(round_id, one)
    aggregator = world.aggregator()
    aggregator.run_once()
    assert world.round(round_id).state_name == OPEN
    for device_id in (two, three, four):
        world.submit(round_id, device_id)
        aggregator.run_once()
    aggregator.close()
    assert world.round(round_id).survivors == sorted([two, three, four])
    assert_is_mean(world, round_id)


def test_a_round_with_too_few_readable_updates_is_abandoned(world: AggregatorWorld) -> None:
    round_id = world.open_round()
    world.answer(round_id)
    for device_id in list(world.round(round_id).survivors)[:2]:
        world.lose(round_id, device_id)
    world.aggregate()
    assert world.round(round_id).state_name == ABANDONED
    assert world.session(world.round(round_id).session_id).open_round is None


def test_a_round_whose_model_is_lost_is_abandoned(world: AggregatorWorld) -> None:
    round_id = world.open_round()
    world.answer(round_id)
    model_hash = world.round(round_id).model_hash
    (world.folder / model_hash[:2] / model_hash).unlink()
    world.aggregate()
    assert (world.round(round_id).state_name, world.round(round_id).reason) == (
        ABANDONED, "model_unusable:blob_not_found",
    )  # fmt: skip


def test_several_rounds_are_folded_side_by_side(world: AggregatorWorld) -> None:
    rounds = [world.open_round() for _ in range(3)]
    aggregator = world.aggregator()
    for position in range(3):
        for round_id in rounds:
            device_id = world.training.get_selected_participants(round_id=round_id)[position]
            world.submit(round_id, device_id)
        aggregator.run_once()
    aggregator.close()
    for round_id in rounds:
        assert_is_mean(world, round_id)


def test_the_weight_of_an_update_is_capped(world: AggregatorWorld) -> None:
    policy = msgspec.structs.replace(POLICY, weight_cap=POLICY.weight_cap)
    round_id = world.open_round(round_policy=policy)
    for number, device_id in enumerate(world.training.get_selected_participants(round_id=round_id)[:3]):
        world.submit(round_id, device_id, examples=10**6 if number == 0 else 500)
    world.aggregate()
    assert_is_mean(world, round_id)
