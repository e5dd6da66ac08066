"""A sample: what a device has measured of itself at one instant, and what no device can have measured."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from domain.kernel import Refusal, Value

from .policy import BATTERY, CPU, MAX_TEMP, SKIN

MAINS, CHARGING, DISCHARGING = "mains", "charging", "discharging"
POWER = (MAINS, CHARGING, DISCHARGING)
SAMPLE_EVERY = timedelta(seconds=5)
SKEW = timedelta(seconds=5)
"""How far a device's clock may be ahead of the village's."""
MAX_AGE = timedelta(minutes=15)
"""How long a device that is cut off keeps its samples."""
MAX_BATCH = 180
MIN_TEMP = -50.0
MAX_SEQUENCE = 2**53 - 1


class SamplesOutOfOrder(Refusal):
    """A batch is of 1 to 180 samples, whose sequence and time both rise."""


class SamplesReplayed(Refusal):
    """Samples are taken once: their sequence is beyond every earlier one of their session."""

    status = 409


class SampleInFuture(Refusal):
    """A sample is measured before it is sent: the device's clock is at most 5 s ahead."""


class SampleTooOld(Refusal):
    """A sample is of the session it is sent to, and at most 15 minutes old."""


class SampleImpossible(Refusal):
    """A sample's values can be measured: percents of 0 to 100, -50 to 150 C, a power state that exists."""


class Sample(Value, frozen=True):
    """None is what could not be measured. `cpu_percent` is the use by others than the work lent; Celsius; seconds.

    A device on `mains` has no battery.
    """

    sequence: int
    sampled_at: datetime
    power: str | None = None
    battery_percent: float | None = None
    battery_temp: float | None = None
    skin_temp: float | None = None
    cpu_temp: float | None = None
    cpu_percent: float | None = None
    memory_percent: float | None = None
    idle_s: int | None = None
    metered: bool | None = None

    @property
    def temperatures(self) -> list[tuple[str, float]]:
        """What is known, by kind."""
        kinds = ((BATTERY, self.battery_temp), (SKIN, self.skin_temp), (CPU, self.cpu_temp))
        return [(kind, value) for kind, value in kinds if value is not None]

    @property
    def minute(self) -> int:
        """Of the UTC day."""
        at = self.sampled_at.astimezone(UTC)
        return at.hour * 60 + at.minute


def check_batch(samples: Sequence[Sample], *, after: int, since: datetime, now: datetime) -> None:
    """Pass when these samples can have been measured, in this order, since `since`, and none is `after` or before.

    Raises:
        SamplesOutOfOrder, SamplesReplayed, SampleInFuture, SampleTooOld, SampleImpossible.
    """
    if not 1 <= len(samples) <= MAX_BATCH:
        raise SamplesOutOfOrder(f"{len(samples)} samples")
    for one, next_ in pairwise(samples):
        if next_.sequence <= one.sequence or next_.sampled_at <= one.sampled_at:
            raise SamplesOutOfOrder(f"sample {next_.sequence} after {one.sequence}")
    first, last = samples[0], samples[-1]
    if first.sequence <= after:
        raise SamplesReplayed(f"sample {first.sequence} after {after}")
    if last.sampled_at > now + SKEW:
        raise SampleInFuture(f"sample {last.sequence} of {last.sampled_at.isoformat()}")
    if first.sampled_at < max(since - SKEW, now - MAX_AGE):
        raise SampleTooOld(f"sample {first.sequence} of {first.sampled_at.isoformat()}")
    for sample in samples:
        _check_values(sample)


def _check_values(sample: Sample) -> None:
    percents = (sample.battery_percent, sample.cpu_percent, sample.memory_percent)
    if not (
        1 <= sample.sequence <= MAX_SEQUENCE
        and sample.power in (None, *POWER)
        and not (sample.power == MAINS and sample.battery_percent is not None)
        and all(value is None or 0 <= value <= 100 for value in percents)
        and all(MIN_TEMP <= value <= MAX_TEMP for _, value in sample.temperatures)
        and (sample.idle_s is None or 0 <= sample.idle_s <= 366 * 86_400)
    ):
        raise SampleImpossible(f"sample {sample.sequence}")
