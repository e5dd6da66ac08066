"""When a session runs, throttles, pauses and ends: a pure fold over samples, the same on the device and centrally.

Time comes from the samples. What trips must show twice, or after 10 s without a good sample; what is critical trips at
once. A pause ends when 300 s have been clear of all that would keep a session from starting: so a stricter policy never
runs while a laxer one pauses, and nothing resumes within the minimum pause.
"""

import hashlib
from datetime import datetime, timedelta

import msgspec

from domain.kernel import Value
from domain.kernel.time import milliseconds

from .contribution import BASIS
from .policy import HarvestPolicy
from .sample import CHARGING, MAINS, Sample
from .states import (
    ACTIVE,
    ADMITTED,
    BATTERY_LOW,
    CLOSED,
    CPU_BUSY,
    FLAPPING,
    IN_USE,
    METERED,
    NOT_CHARGING,
    OFF_SCHEDULE,
    PAUSED,
    RUNNING,
    SENSOR_UNKNOWN,
    SILENT,
    THROTTLED,
    TOO_HOT,
    WARM,
)

CONFIRM = timedelta(seconds=10)
MIN_PAUSE = timedelta(seconds=300)
MIN_THROTTLE = timedelta(seconds=60)
SILENCE = timedelta(seconds=30)
FLAPPING_WITHIN = timedelta(minutes=10)
MAX_TRANSITIONS = 4
CRITICAL_MARGIN = 5.0
"""Degrees above the pause temperature that trip at once."""


class Reading(Value, frozen=True):
    """What a sample has against running: the limit it is beyond. Unknown sensors observe None."""

    kind: str
    sensor: str
    observed: float | None = None
    limit: float | None = None
    critical: bool = False


class Transition(Value, frozen=True):
    """A change of state that the sample with this sequence brings; `reading` says why."""

    to: str
    sequence: int
    at: datetime
    reading: Reading


class Watch(Value, frozen=True):
    """What has to be remembered between two samples of a session, and what has been counted since its last segment.

    `run_ms` is time between samples while it ran, `duty_ms` the same weighted by duty in basis points.
    """

    status: str = ADMITTED
    sequence: int = 0
    last_at: datetime | None = None
    good_at: datetime | None = None
    unclear_at: datetime | None = None
    reduced_at: datetime | None = None
    bad: int = 0
    duty_bp: int = 0
    changes: list[datetime] = []
    from_at: datetime | None = None
    run_ms: int = 0
    duty_ms: int = 0
    samples: int = 0
    digest: str = ""


def step(policy: HarvestPolicy, watch: Watch, sample: Sample) -> tuple[Watch, Transition | None]:
    """Count a sample's time, and take the transition it brings."""
    counted = _counted(watch, sample)
    found = decide(policy, watch, sample)
    return _after(policy, counted, sample, found), found


def decide(policy: HarvestPolicy, watch: Watch, sample: Sample) -> Transition | None:
    """The transition that this sample brings, by what was seen before; None when all stays as it is."""
    found = _change(policy, watch, sample)
    if found is None:
        return None
    to, reading = found
    if watch.status in ACTIVE or watch.changes:
        recent = [at for at in watch.changes if sample.sampled_at - at < FLAPPING_WITHIN]
        if len(recent) >= MAX_TRANSITIONS:
            to, reading = CLOSED, Reading(FLAPPING, reading.sensor, len(recent) + 1.0, MAX_TRANSITIONS)
    return Transition(to, sample.sequence, sample.sampled_at, reading)


def _change(policy: HarvestPolicy, watch: Watch, sample: Sample) -> tuple[str, Reading] | None:
    now, trip = sample.sampled_at, against(policy, sample)
    if watch.status not in ACTIVE:
        rested = not _silent(watch, now) and (watch.unclear_at is None or now - watch.unclear_at >= MIN_PAUSE)
        clear = watch.status in (ADMITTED, PAUSED) and rested and clear_of(policy, sample) is None
        return (RUNNING, Reading("clear", "all")) if clear else None
    assert watch.last_at is not None
    if _silent(watch, now):
        return PAUSED, Reading(SILENT, "samples", (now - watch.last_at).total_seconds(), SILENCE.total_seconds())
    if trip is not None:
        unsure = watch.good_at is None or now - watch.good_at >= CONFIRM
        return (PAUSED, trip) if trip.critical or watch.bad or unsure else None
    duty = duty_bp(policy, sample)
    if watch.status == RUNNING:
        return (THROTTLED, _warmest(policy, sample)) if duty < BASIS else None
    cooled = watch.reduced_at is None or now - watch.reduced_at >= MIN_THROTTLE
    return (RUNNING, Reading("clear", "temperature")) if duty == BASIS and cooled else None


def _silent(watch: Watch, now: datetime) -> bool:
    """Whether nothing was heard for too long before: whatever it did then, it has to be clear from now on."""
    return watch.last_at is not None and now - watch.last_at > SILENCE


def against(policy: HarvestPolicy, sample: Sample) -> Reading | None:
    """What a session must not go on with; what is critical first."""
    found = _limits(policy, sample, starting=False)
    return next((reading for reading in found if reading.critical), found[0] if found else None)


def clear_of(policy: HarvestPolicy, sample: Sample) -> Reading | None:
    """What a session must not start or resume with: more than what it may go on with."""
    found = _limits(policy, sample, starting=True)
    return found[0] if found else None


def _limits(policy: HarvestPolicy, sample: Sample, *, starting: bool) -> list[Reading]:
    found = []
    for kind, value in sample.temperatures:
        band = policy.band(kind)
        if value >= band.pause or (starting and value > band.full):
            critical = value >= band.pause + CRITICAL_MARGIN
            found.append(Reading(TOO_HOT, kind, value, band.full if starting else band.pause, critical))
    if not sample.temperatures and not policy.allows_unknown("temperature"):
        found.append(Reading(SENSOR_UNKNOWN, "temperature"))
    found += _power_limits(policy, sample, starting)
    if sample.cpu_percent is None:
        found += _unknown(policy, "cpu")
    elif sample.cpu_percent > policy.max_cpu_percent:
        found.append(Reading(CPU_BUSY, "cpu", sample.cpu_percent, policy.max_cpu_percent))
    if policy.idle_seconds and sample.idle_s is None:
        found += _unknown(policy, "idle")
    elif sample.idle_s is not None and sample.idle_s < policy.idle_seconds:
        found.append(Reading(IN_USE, "idle", float(sample.idle_s), float(policy.idle_seconds)))
    if not policy.metered_network:
        if sample.metered is None:
            found += _unknown(policy, "network")
        elif sample.metered:
            found.append(Reading(METERED, "network"))
    if not policy.scheduled(sample.minute):
        found.append(Reading(OFF_SCHEDULE, "clock"))
    return found


def _power_limits(policy: HarvestPolicy, sample: Sample, starting: bool) -> list[Reading]:
    if sample.power == MAINS:
        return []
    found = []
    if sample.battery_percent is None:
        found += _unknown(policy, "battery")
    else:
        limit = policy.resume_battery_percent if starting else policy.min_battery_percent
        if sample.battery_percent < limit:
            critical = sample.battery_percent < policy.min_battery_percent / 2
            found.append(Reading(BATTERY_LOW, "battery", sample.battery_percent, float(limit), critical))
    if policy.require_charging:
        if sample.power is None:
            found += _unknown(policy, "power")
        elif sample.power != CHARGING:
            found.append(Reading(NOT_CHARGING, "power"))
    return found


def _unknown(policy: HarvestPolicy, sensor: str) -> list[Reading]:
    return [] if policy.allows_unknown(sensor) else [Reading(SENSOR_UNKNOWN, sensor)]


def duty_bp(policy: HarvestPolicy, sample: Sample) -> int:
    """How much of its time a running device may work, in basis points: all up to the band, linearly less in it."""
    duty = BASIS
    for kind, value in sample.temperatures:
        band = policy.band(kind)
        full, pause, at = (round(100 * degrees) for degrees in (band.full, band.pause, value))
        duty = min(duty, max(0, (pause - at) * BASIS // (pause - full)))
    return duty


def _warmest(policy: HarvestPolicy, sample: Sample) -> Reading:
    over = [(value - policy.band(kind).full, kind, value) for kind, value in sample.temperatures]
    _, kind, value = max(over)
    return Reading(WARM, kind, value, policy.band(kind).full)


def _counted(watch: Watch, sample: Sample) -> Watch:
    """With the time since the last sample, if it was run and nobody was silent."""
    digest = hashlib.sha256(watch.digest.encode() + msgspec.json.encode(sample)).hexdigest()
    passed = 0
    if watch.status in ACTIVE and watch.last_at is not None and sample.sampled_at - watch.last_at <= SILENCE:
        passed = milliseconds(watch.last_at, sample.sampled_at)
    return msgspec.structs.replace(
        watch,
        from_at=watch.from_at or sample.sampled_at,
        run_ms=watch.run_ms + passed,
        duty_ms=watch.duty_ms + passed * watch.duty_bp,
        samples=watch.samples + 1,
        digest=digest,
    )


def _after(policy: HarvestPolicy, watch: Watch, sample: Sample, found: Transition | None) -> Watch:
    now, trip, duty = sample.sampled_at, against(policy, sample), duty_bp(policy, sample)
    kept = [at for at in watch.changes if now - at < FLAPPING_WITHIN]
    starts = watch.status == ADMITTED
    return msgspec.structs.replace(
        watch,
        status=found.to if found else watch.status,
        sequence=sample.sequence,
        last_at=now,
        good_at=now if trip is None else watch.good_at,
        unclear_at=now if _silent(watch, now) or clear_of(policy, sample) is not None else watch.unclear_at,
        reduced_at=now if duty < BASIS else watch.reduced_at,
        bad=0 if trip is None else watch.bad + 1,
        duty_bp=duty,
        changes=[*kept, now] if found and not starts else kept,
    )


def emptied(watch: Watch) -> Watch:
    """After what was counted has been recorded: counting begins anew."""
    return msgspec.structs.replace(watch, from_at=watch.last_at, run_ms=0, duty_ms=0, samples=0, digest="")


def paused(watch: Watch, found: Transition) -> Watch:
    """After a pause that no sample has brought: it is as unclear as a sample would have been."""
    return emptied(
        msgspec.structs.replace(watch, status=found.to, unclear_at=found.at, changes=[*watch.changes, found.at])
    )


def fallen_silent(watch: Watch, now: datetime) -> Transition | None:
    """The pause of a running session whose device has said nothing for 30 s."""
    if watch.status not in ACTIVE or watch.last_at is None or now - watch.last_at < SILENCE:
        return None
    quiet = (now - watch.last_at).total_seconds()
    return Transition(PAUSED, watch.sequence, now, Reading(SILENT, "samples", quiet, SILENCE.total_seconds()))
