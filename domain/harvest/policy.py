"""What an owner allows: when a device may lend itself, and when it must stop."""

from itertools import pairwise

from domain.kernel import Refusal, Value

BATTERY, SKIN, CPU = "battery", "skin", "cpu"
TEMPERATURES = (BATTERY, SKIN, CPU)
STOP, ALLOW = "stop", "allow"
SENSORS = ("battery", "power", "temperature", "cpu", "idle", "network")
MINUTES_PER_DAY = 24 * 60
MAX_WINDOWS = 32
MAX_TEMP = 150.0
MAX_IDLE_S = 24 * 3_600


class PolicyInvalid(Refusal):
    """A policy's numbers are within bounds, and nothing resumes above what it trips at."""


class Band(Value, frozen=True):
    """In degrees Celsius: at full duty up to `full`, less and less above, paused from `pause` on."""

    full: float
    pause: float


class Window(Value, frozen=True):
    """Minutes of the day in UTC, from the first to before the last; it may pass midnight."""

    from_minute: int
    to_minute: int

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day is in it."""
        if self.from_minute <= self.to_minute:
            return self.from_minute <= minute < self.to_minute
        return minute >= self.from_minute or minute < self.to_minute


class HarvestPolicy(Value, frozen=True):
    """The limits of one device; the defaults are the village's.

    `max_cpu_temp` to `thermal_throttle_temp` is the band of every kind of sensor that `bands` does not name (battery,
    skin, cpu): a laptop's processor idles above 45 C. `max_cpu_percent` is what others may use of the processor.
    `idle_seconds` (0: not asked) is how long nobody has used the device. Without a `schedule` every hour is fine.
    What a sensor that fails means is `unknown_sensor` (stop or allow), but for those in `unknown_allowed`.
    """

    min_battery_percent: int = 20
    resume_battery_percent: int = 25
    max_cpu_temp: float = 45.0
    thermal_throttle_temp: float = 55.0
    require_charging: bool = True
    max_cpu_percent: float = 50.0
    idle_seconds: int = 0
    schedule: list[Window] = []
    metered_network: bool = False
    unknown_sensor: str = STOP
    unknown_allowed: list[str] = []
    bands: dict[str, Band] = {}

    def band(self, kind: str) -> Band:
        """The temperatures of a kind of sensor."""
        return self.bands.get(kind) or Band(self.max_cpu_temp, self.thermal_throttle_temp)

    def allows_unknown(self, sensor: str) -> bool:
        """Whether a device may run while this sensor says nothing."""
        return self.unknown_sensor == ALLOW or sensor in self.unknown_allowed

    def scheduled(self, minute: int) -> bool:
        """Whether a minute of the UTC day is one to run in."""
        return not self.schedule or any(window.holds(minute) for window in self.schedule)


def checked(policy: HarvestPolicy) -> HarvestPolicy:
    """The policy itself, once it is known to make sense. Raises PolicyInvalid."""
    battery = (policy.min_battery_percent, policy.resume_battery_percent)
    if not 0 <= battery[0] <= battery[1] <= 100:
        raise PolicyInvalid(f"battery percent {battery}")
    bands = [policy.band(kind) for kind in TEMPERATURES]
    if set(policy.bands) - set(TEMPERATURES) or not all(0 <= band.full < band.pause <= MAX_TEMP for band in bands):
        raise PolicyInvalid(
            f"temperatures rise from full to pause, 0 to {MAX_TEMP:.0f} C, of {', '.join(TEMPERATURES)}"
        )
    if not 0 <= policy.max_cpu_percent <= 100 or not 0 <= policy.idle_seconds <= MAX_IDLE_S:
        raise PolicyInvalid(f"{policy.max_cpu_percent} percent of the processor, idle for {policy.idle_seconds} s")
    minutes = [minute for window in policy.schedule for minute in (window.from_minute, window.to_minute)]
    if len(policy.schedule) > MAX_WINDOWS or not all(0 <= minute <= MINUTES_PER_DAY for minute in minutes):
        raise PolicyInvalid(f"at most {MAX_WINDOWS} windows, in minutes of the day")
    if policy.unknown_sensor not in (STOP, ALLOW) or set(policy.unknown_allowed) - set(SENSORS):
        raise PolicyInvalid(f"unknown sensors stop or are allowed, of {', '.join(SENSORS)}")
    return policy


def stricter(one: HarvestPolicy, other: HarvestPolicy) -> HarvestPolicy:
    """What both allow: it runs on no trace longer than either."""
    lax = one.unknown_sensor == ALLOW == other.unknown_sensor
    return HarvestPolicy(
        min_battery_percent=max(one.min_battery_percent, other.min_battery_percent),
        resume_battery_percent=max(one.resume_battery_percent, other.resume_battery_percent),
        max_cpu_temp=min(one.max_cpu_temp, other.max_cpu_temp),
        thermal_throttle_temp=min(one.thermal_throttle_temp, other.thermal_throttle_temp),
        require_charging=one.require_charging or other.require_charging,
        max_cpu_percent=min(one.max_cpu_percent, other.max_cpu_percent),
        idle_seconds=max(one.idle_seconds, other.idle_seconds),
        schedule=_both(one.schedule, other.schedule),
        metered_network=one.metered_network and other.metered_network,
        unknown_sensor=ALLOW if lax else STOP,
        unknown_allowed=[] if lax else [s for s in SENSORS if one.allows_unknown(s) and other.allows_unknown(s)],
        bands={kind: _lower(one.band(kind), other.band(kind)) for kind in sorted({*one.bands, *other.bands})},
    )


def _lower(one: Band, other: Band) -> Band:
    return Band(min(one.full, other.full), min(one.pause, other.pause))


def _both(one: list[Window], other: list[Window]) -> list[Window]:
    """The minutes that are in both schedules."""
    if not one or not other:
        return one or other
    edges = {0, MINUTES_PER_DAY, *(edge for w in (*one, *other) for edge in (w.from_minute, w.to_minute))}
    found: list[Window] = []
    for start, end in pairwise(sorted(edges)):
        if any(w.holds(start) for w in one) and any(w.holds(start) for w in other):
            if found and found[-1].to_minute == start:
                start = found.pop().from_minute
            found.append(Window(start, end))
    return found or [Window(0, 0)]
