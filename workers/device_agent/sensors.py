"""What a device measures of itself: a port, the sensors of this machine by psutil, and a trace of a file."""

import csv
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import psutil

from domain.harvest.policy import BATTERY, CPU, SKIN
from domain.harvest.sample import CHARGING, DISCHARGING, MAINS, Sample

T = TypeVar("T")

_KINDS = {
    BATTERY: ("battery", "bat0", "bat1"),
    SKIN: ("skin", "acpitz"),
    CPU: ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal"),
}
_SUPPLIES = Path("/sys/class/power_supply")
_PLAUSIBLE = (0.0, 130.0)
"""A sensor that answers 0 or 200 degrees is broken: unknown, not cool."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A sample without its place in a session; None is unknown."""

    power: str | None = None
    battery_percent: float | None = None
    battery_temp: float | None = None
    skin_temp: float | None = None
    cpu_temp: float | None = None
    cpu_percent: float | None = None
    memory_percent: float | None = None
    idle_s: int | None = None
    metered: bool | None = None

    def sample(self, sequence: int, now: datetime) -> Sample:
        """With its place, rounded to what sensors can tell apart."""
        known: dict[str, Any] = {
            name: round(value, 2) if isinstance(value, float) else value
            for name, value in msgspec.structs.asdict(self).items()
        }
        return Sample(sequence=sequence, sampled_at=now, **known)


class Sensors(Protocol):
    """The port the harvest of a device measures through."""

    def names(self) -> list[str]:
        """Which sensors there are, by the names of a policy."""

    def read(self) -> Measured | None:
        """What they say now; None when there is nothing more to say (a trace has ended)."""


class MachineSensors:
    """This machine, by psutil. What a sensor cannot tell, or fails to, is unknown.

    Args:
        metered: whether the owner pays for its traffic by volume; no machine knows.
    """

    def __init__(self, *, metered: bool = False) -> None:
        self._metered = metered
        self._self = psutil.Process()
        self._own_s = own_cpu_s(self._self)
        self._read_at = time.monotonic()
        psutil.cpu_percent()

    def names(self) -> list[str]:
        first = self.read()
        has = {
            "battery": first.power == MAINS or first.battery_percent is not None,
            "power": first.power is not None,
            "temperature": any(value is not None for value in (first.battery_temp, first.skin_temp, first.cpu_temp)),
            "cpu": True,
            "idle": first.idle_s is not None,
            "network": True,
        }
        return [name for name, there in has.items() if there]

    def read(self) -> Measured:
        temperatures = _or_none(_temperatures) or {}
        power, percent = _or_none(_power) or (None, None)
        return Measured(
            power=power,
            battery_percent=percent,
            battery_temp=temperatures.get(BATTERY),
            skin_temp=temperatures.get(SKIN),
            cpu_temp=temperatures.get(CPU),
            cpu_percent=_or_none(self._others),
            memory_percent=_or_none(lambda: float(psutil.virtual_memory().percent)),
            idle_s=_or_none(_idle_s),
            metered=self._metered,
        )

    def _others(self) -> float:
        """The share of the processor that others than this device's own work have used since it was last asked."""
        now, own_s, whole = time.monotonic(), own_cpu_s(self._self), psutil.cpu_percent()
        own = 100 * (own_s - self._own_s) / max(0.001, now - self._read_at) / (psutil.cpu_count() or 1)
        self._own_s, self._read_at = own_s, now
        return min(100.0, max(0.0, whole - own))


class TraceSensors:
    """A file of samples, played from the first on, one a reading: to see what a policy does. CSV, as the columns say.

    Raises ValueError for a file that is no trace.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open() as file:
                rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
            self._rows = [msgspec.convert(_present(row), Measured, strict=False) for row in rows]
        except (OSError, msgspec.ValidationError) as error:
            raise ValueError(f"{path} is no trace of sensors: {error}") from error
        if not self._rows:
            raise ValueError(f"{path} has no samples")
        self._next = 0

    def names(self) -> list[str]:
        known = {name for row in self._rows for name, value in msgspec.structs.asdict(row).items() if value is not None}
        temperatures = known & {"battery_temp", "skin_temp", "cpu_temp"}
        has = {
            "battery": "battery_percent" in known or any(row.power == MAINS for row in self._rows),
            "power": "power" in known,
            "temperature": bool(temperatures),
            "cpu": "cpu_percent" in known,
            "idle": "idle_s" in known,
            "network": "metered" in known,
        }
        return [name for name, there in has.items() if there]

    def read(self) -> Measured | None:
        if self._next == len(self._rows):
            return None
        self._next += 1
        return self._rows[self._next - 1]


def _present(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name != "at_s" and value}


def _or_none(measure: Callable[[], T]) -> T | None:
    """What is measured, None when the sensor fails: one that does must not hide the others."""
    try:
        return measure()
    except (OSError, psutil.Error, NotImplementedError, AttributeError, ValueError):
        return None


def own_cpu_s(process: psutil.Process) -> float:
    """Processor time of a process and of all that it started, such as the jobs that run and those that have ended."""
    used = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            used += times.user + times.system + ended
    return used


def _power() -> tuple[str | None, float | None]:
    """The power state and the charge; a machine without a battery is on mains."""
    battery: Any = psutil.sensors_battery()
    if battery is None:
        return (None if _has_battery() else MAINS), None
    plugged = battery.power_plugged
    state = None if plugged is None else CHARGING if plugged else DISCHARGING
    return state, min(100.0, max(0.0, float(battery.percent)))


def _has_battery() -> bool:
    if not _SUPPLIES.is_dir():
        return False
    kinds = [(supply / "type") for supply in _SUPPLIES.iterdir()]
    return any(kind.exists() and kind.read_text().strip() == "Battery" for kind in kinds)


def _temperatures() -> dict[str, float]:
    """The hottest sensor of each kind."""
    found: dict[str, float] = {}
    for chip, readings in psutil.sensors_temperatures().items():
        kind = next((kind for kind, names in _KINDS.items() if chip.lower() in names), None)
        values = [float(one.current) for one in readings if _PLAUSIBLE[0] < one.current < _PLAUSIBLE[1]]
        if kind is not None and values:
            found[kind] = max(found.get(kind, 0.0), *values)
    return found


def _idle_s() -> int | None:
    """Since when no terminal has been written to or read; None where nobody is logged in at one."""
    terminals = [Path("/dev") / user.terminal for user in psutil.users() if user.terminal]
    times = [os.stat(terminal).st_atime for terminal in terminals if terminal.exists()]  # noqa: PTH116
    return max(0, int(time.time() - max(times))) if times else None


def utc_now() -> datetime:
    """The clock samples are stamped by."""
    return datetime.now(UTC)
