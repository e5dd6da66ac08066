"""The accumulator: exact integers, so order, pieces and crashes leave no trace in the sum."""

import struct
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.federated_learning.manifest import UpdateNotFinite, UpdateSizeMismatch
from workers.aggregator.accumulator import CHUNK, Accumulator, value_bits

CLIP_MICRO = 1_500_000
WEIGHT_CAP = 1_000
MAX_UPDATES = 6
Update = tuple[int, list[float]]


@st.composite
def updates(draw: st.DrawFn) -> list[Update]:
    size = draw(st.integers(1, 24))
    value = st.floats(-3, 3, width=32)
    update = st.tuples(st.integers(1, WEIGHT_CAP), st.lists(value, min_size=size, max_size=size))
    return draw(st.lists(update, min_size=1, max_size=MAX_UPDATES))


def accumulator(size: int) -> Accumulator:
    return Accumulator(size, clip_micro=CLIP_MICRO, weight_caps=MAX_UPDATES * WEIGHT_CAP)


def pieces(values: list[float], size: int = 7) -> Iterator[bytes]:
    for start in range(0, len(values), size):
        part = values[start : start + size]
        yield struct.pack(f"<{len(part)}f", *part)


def folded(given_updates: list[Update], piece: int = 7) -> Accumulator:
    result = accumulator(len(given_updates[0][1]))
    for weight, values in given_updates:
        result.fold(weight, pieces(values, piece))
    return result


@given(updates(), st.randoms(), st.integers(1, 30))
def test_the_sum_is_the_same_in_any_order_and_in_any_pieces(
    given_updates: list[Update], random: object, piece: int
) -> None:
    shuffled = list(given_updates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert folded(given_updates).digest() == folded(shuffled, piece).digest()


@given(updates(), st.integers(0, MAX_UPDATES))
def test_folding_some_one_by_one_and_the_rest_together_gives_the_same_sum(
    given_updates: list[Update], split: int
) -> None:
    result = accumulator(len(given_updates[0][1]))
    for weight, values in given_updates[:split]:
        result.fold(weight, pieces(values))
    rest = [(weight, torch.tensor(values, dtype=torch.float32)) for weight, values in given_updates[split:]]
    if rest:
        result.fold_together(rest)
    assert result.digest() == folded(given_updates).digest()


@given(updates())
def test_the_mean_is_as_near_the_float64_mean_as_the_value_bits_promise(given_updates: list[Update]) -> None:
    result = folded(given_updates)
    size = len(given_updates[0][1])
    base = np.linspace(-1, 1, size, dtype=np.float32)
    mean = np.frombuffer(b"".join(result.mean_pieces([base.tobytes()])), dtype="<f4")
    limit = CLIP_MICRO / 1e6
    weights = np.array([weight for weight, _ in given_updates], dtype=np.float64)
    values = np.clip(np.array([values for _, values in given_updates], dtype=np.float32), -limit, limit)
    exact = base + (weights[:, None] * values.astype(np.float64)).sum(0) / weights.sum()
    resolution = 2.0**-result.fraction_bits
    assert np.all(np.abs(mean - exact) <= resolution + np.spacing(np.abs(mean)))
    assert resolution < 5e-9


@given(updates())
def test_every_value_beyond_the_clip_range_is_clipped_and_counted(given_updates: list[Update]) -> None:
    beyond = sum(abs(value) > CLIP_MICRO / 1e6 for _, values in given_updates for value in values)
    assert folded(given_updates).clipped == beyond


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 2**30), st.integers(1, 50_000_000))
def test_no_sum_within_the_policy_can_overflow(participants: int, cap: int, clip_micro: int) -> None:
    result = Accumulator(1, clip_micro=clip_micro, weight_caps=participants * cap)
    for _ in range(participants):
        result.fold(cap, [struct.pack("<f", 3e38)])
    assert 0 < int(result.total[0]) <= 2**53
    assert result.clipped == participants
    (mean,) = struct.unpack("<f", b"".join(result.mean_pieces([struct.pack("<f", 0.0)])))
    resolution = 2.0**-result.fraction_bits
    assert abs(mean - clip_micro / 1e6) <= resolution + np.spacing(np.float32(clip_micro / 1e6))


def test_chunks_beyond_one_are_folded_where_they_belong() -> None:
    size = CHUNK + 3
    values = torch.arange(size, dtype=torch.float32) / size
    result = Accumulator(size, clip_micro=1_000_000, weight_caps=10)
    result.fold(2, [values[: CHUNK + 1].numpy().tobytes(), values[CHUNK + 1 :].numpy().tobytes()])
    mean = b"".join(result.mean_pieces([torch.zeros(size).numpy().tobytes()]))
    assert np.allclose(np.frombuffer(mean, dtype="<f4"), values.numpy(), atol=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(UpdateNotFinite):
        accumulator(3).fold(1, pieces([0.0, value, 0.0]))


@pytest.mark.parametrize("size", [2, 4])
def test_an_update_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(UpdateSizeMismatch):
        accumulator(3).fold(1, pieces([0.0] * size))


def test_value_bits_leave_room_for_the_sum_of_the_weight_caps() -> None:
    assert value_bits(20 * 1_000) == 53 - 15
    assert value_bits(1) == 53
    assert value_bits(1024) == 43
    assert value_bits(1025) == 42
