"""The fixed-point accumulator: a weighted sum of updates, the same bits in any order of arrival and after any crash."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from domain.federated_learning.manifest import UpdateNotFinite, UpdateSizeMismatch

CHUNK = 1 << 18
"""Coordinates folded at a time; the only memory used beside the accumulator is a few chunks."""
EXACT_BITS = 53
"""Integers up to 2^53 are exact in float64, and so are their sums and products below that."""
MICRO = 1_000_000


def value_bits(weight_caps: int) -> int:
    """The bits one clipped coordinate may take, so that no sum under these weight caps can overflow.

    `weight_caps` is the sum of the largest weights of all participants a round may have.
    """
    assert 0 < weight_caps < 2**40, "a round policy bounds the weights so that at least 13 value bits are left"
    return EXACT_BITS - (weight_caps - 1).bit_length()


class Accumulator:
    """The sum of weight x clipped update over a model's coordinates, as integers in units of 2^-fraction_bits.

    Rounding happens once per coordinate and update, before anything is added; what is added are integers below
    2^53, so the sum does not depend on order. They are carried in float64, whose additions the processor does
    several at a time: folding takes half the time it takes in int64. Range and resolution are fixed by the round
    policy before training.
    """

    def __init__(self, coordinates: int, *, clip_micro: int, weight_caps: int) -> None:
        """`clip_micro` is the largest absolute value of one coordinate times 10^6."""
        assert coordinates > 0
        assert clip_micro > 0
        self.coordinates = coordinates
        self.weight_caps = weight_caps
        self.clip = _float32_below(clip_micro / MICRO)
        # The clip range lies in [-2^k, 2^k] for the smallest such k: powers of two make scaling exact.
        whole_bits = (-(-clip_micro // MICRO) - 1).bit_length()
        self.fraction_bits = value_bits(weight_caps) - whole_bits
        self._scale = 2.0**self.fraction_bits
        size = min(CHUNK, coordinates)
        self._narrow, self._wide = torch.empty(size, dtype=torch.float32), torch.empty(size, dtype=torch.float64)
        self.total = torch.zeros(coordinates, dtype=torch.float64)
        self.weight = 0
        self.clipped = 0

    def fold(self, weight: int, pieces: Iterable[bytes]) -> None:
        """Add one update given as little-endian float32 data in pieces of whole coordinates.

        Raises UpdateNotFinite or UpdateSizeMismatch. The sum is then worthless: start a new one (see `worker`).
        """
        start = 0
        for piece in pieces:
            values = _values(piece)
            if start + values.numel() > self.coordinates:
                raise UpdateSizeMismatch(f"more than {self.coordinates} coordinates")
            self.add(start, [(weight, values)])
            start += values.numel()
        if start != self.coordinates:
            raise UpdateSizeMismatch(f"{start} of {self.coordinates} coordinates")
        self.count(weight)

    def fold_together(self, updates: Sequence[tuple[int, Tensor]]) -> None:
        """Add several whole updates at once: each chunk of the sum is visited once for all of them."""
        for start in range(0, self.coordinates, CHUNK):
            end = min(start + CHUNK, self.coordinates)
            self.add(start, [(weight, values[start:end]) for weight, values in updates])
        for weight, _ in updates:
            self.count(weight)

    def add(self, start: int, parts: Sequence[tuple[int, Tensor]]) -> None:
        """Add the same range of coordinates, from `start`, of several updates. `count` each update once it is whole."""
        longest = max(part.numel() for _, part in parts)
        for offset in range(0, longest, CHUNK):
            end = min(offset + CHUNK, longest)
            self._add_chunk(start + offset, [(weight, part[offset:end]) for weight, part in parts])

    def count(self, weight: int) -> None:
        """Count the weight of an update that has been added whole."""
        assert weight > 0
        self.weight += weight
        assert self.weight <= self.weight_caps, "the round policy caps every weight"

    def mean_pieces(self, base: Iterable[bytes]) -> Iterator[bytes]:
        """base + weighted mean update, as float32 data in the pieces the base comes in.

        One rounding of the mean, one of the sum, one to float32: the same bits on every machine.
        """
        assert self.weight > 0
        start = 0
        for piece in base:
            values = _values(piece)
            end = start + values.numel()
            mean = self.total[start:end].div(self._scale).div_(float(self.weight))
            yield mean.add_(values).to(torch.float32).numpy().tobytes()
            start = end
        if start != self.coordinates:
            raise UpdateSizeMismatch(f"the base has {start} of {self.coordinates} coordinates")

    def digest(self) -> str:
        """The SHA-256 of the sum, its weight and its resolution: equal sums have equal digests."""
        digest = hashlib.sha256(f"{self.coordinates}|{self.fraction_bits}|{self.weight}|{self.clipped}|".encode())
        for start in range(0, self.coordinates, CHUNK):
            digest.update(self.total[start : start + CHUNK].to(torch.int64).numpy().astype("<i8", copy=False).data)
        return digest.hexdigest()

    def _add_chunk(self, start: int, parts: Sequence[tuple[int, Tensor]]) -> None:
        size = parts[0][1].numel()
        units, wide, total = self._narrow[:size], self._wide[:size], self.total[start : start + size]
        for weight, values in parts:
            low, high = (float(bound) for bound in torch.aminmax(values))
            if not (-self.clip <= low and high <= self.clip):
                values = self._clipped(values)
            torch.mul(values, self._scale, out=units).round_()
            total.add_(wide.copy_(units), alpha=weight)

    def _clipped(self, values: Tensor) -> Tensor:
        if not bool(torch.isfinite(values).all()):
            raise UpdateNotFinite("a NaN or an infinity")
        self.clipped += int((values.abs() > self.clip).sum())
        return values.clamp(-self.clip, self.clip)


def _values(piece: bytes) -> Tensor:
    # A copy, because torch wants a buffer it may write to.
    return torch.frombuffer(bytearray(piece), dtype=torch.float32)


def _float32_below(value: float) -> float:
    """The largest float32 that is not above a value, so that clipping is exact in float32."""
    nearest = torch.tensor(value, dtype=torch.float32)
    return float(nearest if float(nearest) <= value else torch.nextafter(nearest, torch.tensor(0.0)))
