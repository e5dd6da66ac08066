"""Training on a device: the same update every time, bounded, and good enough to learn the digits."""

from uuid import UUID, uuid4

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.federated_learning.manifest import UpdateNotFinite, mlp_manifest
from workers.device_agent.assignment import Training
from workers.device_agent.data import Dataset, mnist_shards, mnist_split
from workers.device_agent.training import TrainedUpdate, TrainingStopped, clip, train_update, training_seed
from workers.models import (
    Weights,
    build_model,
    difference,
    initial_weights,
    load_weights,
    save_weights,
    state_of,
)

MANIFEST = mlp_manifest([784, 200, 200, 10])
PLAN = Training(epochs=2, batch_size=20, learning_rate=0.1, momentum=0.0)
CLIP = 1_000_000
SMALL = mlp_manifest([4, 8, 3])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def small_data(seed: int = 1, size: int = 50) -> Dataset:
    random = np.random.default_rng(seed)
    features = random.random((size, 4), dtype=np.float32)
    return Dataset(features, features.argmax(axis=1) % 3)


def small_update(training: Training, seed: int = 7, clip_micro: int = CLIP) -> TrainedUpdate:
    return train_update(SMALL, save_weights(initial_weights(SMALL, 1)), small_data(), training, clip_micro, seed)


def accuracy(weights: Weights) -> float:
    _, test = mnist_split()
    net = build_model(MANIFEST)
    net.load_state_dict(weights)
    with torch.no_grad():
        answers = net(torch.from_numpy(test.features)).argmax(dim=1)
    return float((answers == torch.from_numpy(test.labels)).float().mean())


def test_five_rounds_of_federated_averaging_over_twenty_devices_learn_the_digits() -> None:
    train, _ = mnist_split()
    weights = initial_weights(MANIFEST, seed=0)
    session = UUID(int=1)
    reached = []
    for number in range(5):
        model = save_weights(weights)
        total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        for index, rows in enumerate(mnist_shards(20)):
            seed = training_seed(UUID(int=session.int + number), UUID(int=index))
            update = train_update(MANIFEST, model, train.take(rows), PLAN, CLIP, seed)
            for name, tensor in load_weights(MANIFEST, update.blob).items():
                total[name].add_(tensor, alpha=update.examples)
        weights = {name: tensor + total[name] / len(train) for name, tensor in weights.items()}
        reached.append(accuracy(weights))
    assert reached[0] < 0.7 < reached[2]
    assert reached[4] > 0.8


def test_training_again_after_a_crash_gives_the_same_blob() -> None:
    first, again = small_update(PLAN), small_update(PLAN)
    assert first.blob == again.blob
    assert first.blob_hash == again.blob_hash
    assert small_update(PLAN, seed=8).blob != first.blob


def test_the_seed_is_of_the_round_and_the_device() -> None:
    round_id, device_id = uuid4(), uuid4()
    seed = training_seed(round_id, device_id)
    assert seed == training_seed(round_id, device_id)
    assert len({seed, training_seed(uuid4(), device_id), training_seed(round_id, uuid4())}) == 3
    assert 0 <= seed < 2**63


def test_the_proximal_term_holds_the_update_near_the_global_model() -> None:
    free = small_update(PLAN)
    held = small_update(Training(2, 20, 0.1, 0.0, 5.0))
    assert held.norm < free.norm


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_descent_is_that_of_torch(momentum: float) -> None:
    data, training = small_data(), Training(epochs=5, batch_size=50, learning_rate=0.1, momentum=momentum)
    net = build_model(SMALL)
    net.load_state_dict(initial_weights(SMALL, 1))
    theirs = torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum)
    ours = train_update(SMALL, save_weights(initial_weights(SMALL, 1)), data, training, CLIP, 1)
    order = torch.Generator().manual_seed(1)
    for _ in range(training.epochs):
        rows = torch.randperm(50, generator=order)
        theirs.zero_grad()
        features, labels = torch.from_numpy(data.features)[rows], torch.from_numpy(data.labels)[rows]
        torch.nn.functional.cross_entropy(net(features), labels).backward()  # type: ignore[no-untyped-call]
        theirs.step()
    moved = difference(state_of(net), initial_weights(SMALL, 1))
    for name, tensor in load_weights(SMALL, ours.blob).items():
        torch.testing.assert_close(tensor, moved[name])


def test_momentum_changes_the_descent() -> None:
    assert small_update(Training(2, 20, 0.1, 0.9)).norm > small_update(PLAN).norm


def test_an_update_is_clipped_to_the_range_of_the_policy_and_says_how_often() -> None:
    update = small_update(PLAN, clip_micro=1_000)
    assert update.clipped > 0
    limit = 1_000 / 1_000_000
    assert all(float(tensor.double().abs().max()) <= limit for tensor in load_weights(SMALL, update.blob).values())


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50),
    clip_micro=st.integers(1, 50_000_000),
)
def test_clipping_bounds_every_coordinate_and_leaves_those_inside_alone(values: list[float], clip_micro: int) -> None:
    (bounded,), count = clip({"w": torch.tensor(values)}, clip_micro)[0].values(), 0
    for before, after in zip(values, bounded.double().tolist(), strict=True):
        assert abs(after) <= clip_micro / 1_000_000
        count += before != after
    assert clip({"w": torch.tensor(values)}, clip_micro)[1] == count


def test_a_training_that_diverges_sends_nothing() -> None:
    with pytest.raises(UpdateNotFinite):
        small_update(Training(20, 1, 1e30, 0.0))


def test_data_that_does_not_fit_the_model_is_refused() -> None:
    model = save_weights(initial_weights(SMALL, 1))
    wide = Dataset(np.zeros((3, 5), dtype=np.float32), np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="does not fit"):
        train_update(SMALL, model, wide, PLAN, CLIP, 1)
    strange = Dataset(np.zeros((3, 4), dtype=np.float32), np.full(3, 9, dtype=np.int64))
    with pytest.raises(ValueError, match="does not fit"):
        train_update(SMALL, model, strange, PLAN, CLIP, 1)


def test_training_stops_before_the_next_batch_when_the_process_is_to_end() -> None:
    asked = iter([False, False, True])
    with pytest.raises(TrainingStopped):
        train_update(
            SMALL, save_weights(initial_weights(SMALL, 1)), small_data(), PLAN, CLIP, 1, stopped=lambda: next(asked)
        )
