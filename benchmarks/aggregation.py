"""Aggregation: 20 updates of 25 million float32, ours against reading them once and against plain numpy averaging."""

import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from benchmarks.table import Row, middle
from workers.aggregator.accumulator import Accumulator

COORDINATES = int(os.environ.get("BENCH_COORDINATES", "25000000"))
UPDATES = 20
PASSES = (
    "each chunk is passed over for its bounds, its scaling, its rounding, its widening to float64 and its sum, all in"
    " the cache but each a call of torch; one fused pass would be the next step"
)
RANGE = 1 << 18
"""Coordinates one worker takes at a time when all updates are there: the sum is never larger than that."""
THREADS = 2
RUNS = 5
CLIP_MICRO, WEIGHT_CAP = 1_000_000, 1_000

Update = tuple[int, Tensor]


def run() -> list[Row]:
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(1)
    updates = [(100 + n, torch.randn(COORDINATES, generator=random).mul_(0.01)) for n in range(UPDATES)]
    base = torch.zeros(COORDINATES)
    pieces = [update.numpy().tobytes() for _, update in updates[:1]]
    few = 2 * RANGE
    by_range([(weight, update[:few]) for weight, update in updates], base[:few])  # what a first call costs for ever
    before = _peak_bytes()
    by_range(updates, base)
    extra = (_peak_bytes() - before) / (4 * COORDINATES)
    reads, ranges, arrivals, peers = [], [], [], []
    arriving = _accumulator(COORDINATES)
    for _ in range(RUNS):
        reads.append(_ms(lambda: read(updates)))
        ranges.append(_ms(lambda: by_range(updates, base)))
        arrivals.append(_ms(lambda: arrive(arriving, pieces[0])))
        peers.append(_ms(lambda: plain_average(updates)))
    limit = middle(reads)
    together, arrival = middle(ranges), middle(arrivals)
    model = f"{COORDINATES / 1e6:g}M"
    return [
        Row(
            f"FedAvg {UPDATES} x {model}, by coordinate range", together, "ms", "<= 2.7 x one read of the updates",
            together <= 2.7 * limit, limit=limit, peer=middle(peers), note=PASSES,
        ),
        Row(
            f"one update of {model} folded as it arrives, from bytes", arrival, "ms", "<= 5 x one read of it",
            arrival <= 5 * limit * THREADS / UPDATES, limit=round(limit * THREADS / UPDATES, 3), note=PASSES,
        ),
        Row("peak memory beside the updates, by range", round(extra, 3), "models", "<= 1.1 models", extra <= 1.1,
            note="peak resident memory, what the allocator has not given back among it"),
    ]  # fmt: skip


def read(updates: Sequence[Update]) -> None:
    """Every update read once: what memory allows."""
    _parallel(lambda start, end: [update[start:end].sum() for _, update in updates], COORDINATES)


def by_range(updates: Sequence[Update], base: Tensor) -> Tensor:
    """The new model, range by range: sum, mean, and on to the next."""
    model = torch.empty(len(base))

    def work(start: int, end: int) -> None:
        sums = _accumulator(end - start)
        sums.fold_together([(weight, update[start:end]) for weight, update in updates])
        (piece,) = sums.mean_pieces([base[start:end].numpy().tobytes()])
        model[start:end] = torch.frombuffer(bytearray(piece), dtype=torch.float32)

    _parallel(work, len(base))
    return model


def arrive(sums: Accumulator, update: bytes) -> None:
    """One update as the aggregator gets it: pieces of bytes, one after the other, into the sum of the whole model."""
    sums.weight = 0
    view = memoryview(update)
    sums.fold(100, (bytes(view[start : start + 4 * RANGE]) for start in range(0, len(view), 4 * RANGE)))


def plain_average(updates: Sequence[Update]) -> None:
    """What frameworks do in numpy: every update times its weight in a copy, then the copies added up and divided."""
    total = sum(weight for weight, _ in updates)
    weighted = [update.numpy() * weight for weight, update in updates]
    np.divide(reduce(np.add, weighted), total)


def _accumulator(coordinates: int) -> Accumulator:
    return Accumulator(coordinates, clip_micro=CLIP_MICRO, weight_caps=UPDATES * WEIGHT_CAP)


def _parallel(work: Callable[[int, int], object], coordinates: int) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        starts = range(0, coordinates, RANGE)
        list(pool.map(lambda start: work(start, min(start + RANGE, coordinates)), starts))


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1_000


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
