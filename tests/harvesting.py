"""Traces of samples for tests: recorded and generated ones, and the fold over them."""

import csv
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st

from domain.harvest.decide import Transition, Watch, emptied, step
from domain.harvest.policy import Band, HarvestPolicy
from domain.harvest.sample import Sample
from domain.kernel.time import utc

SOME = settings(max_examples=40)
"""A trace is long: fewer of them."""
START = utc(2026, 1, 1, 12)
TRACES = Path(__file__).parent / "domain" / "harvest" / "traces"


def a_sample(sequence: int, at_s: float | None = None, /, **values: Any) -> Sample:
    """A sample of a phone that is fine, `at_s` seconds after the start (by default one every 5 s), with changes."""
    fine: dict[str, Any] = {
        "power": "charging", "battery_percent": 80.0, "battery_temp": 30.0, "cpu_percent": 5.0,
        "memory_percent": 40.0, "idle_s": 600, "metered": False,
    }  # fmt: skip
    placed = {"sequence": sequence, "sampled_at": START + timedelta(seconds=5 * sequence if at_s is None else at_s)}
    return Sample(**fine | placed | values)


def lived(minutes: int) -> tuple[Watch, list[tuple[Transition, Watch]]]:
    """What a phone that was fine for so long is counted last, and the changes before."""
    watch, changes = Watch(), []
    for number in range(1, minutes * 12 + 2):
        watch, found = step(HarvestPolicy(), watch, a_sample(number))
        if found is not None:
            changes.append((found, watch))
            watch = emptied(watch)
    return watch, changes


def trace(name: str, start: datetime = START) -> list[Sample]:
    """A trace of a file; its first column is seconds since the start."""
    with (TRACES / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [
        msgspec.convert(
            {name: value for name, value in row.items() if name != "at_s" and value != ""}
            | {"sequence": number, "sampled_at": start + timedelta(seconds=float(row["at_s"]))},
            Sample,
            strict=False,
        )
        for number, row in enumerate(rows, 1)
    ]


def folded(policy: HarvestPolicy, samples: Iterable[Sample]) -> list[tuple[Sample, Watch, Transition | None]]:
    """Every sample, with the watch after it and the transition it brought."""
    watch, found = Watch(), []
    for sample in samples:
        watch, transition = step(policy, watch, sample)
        found.append((sample, watch, transition))
    return found


def transitions(policy: HarvestPolicy, samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """What a trace brings: states and why."""
    return [(found.to, found.reading.kind) for _, _, found in folded(policy, samples) if found is not None]


def _maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


temperatures = st.integers(300, 650).map(lambda tenths: tenths / 10)
values = st.fixed_dictionaries(
    {
        "power": st.sampled_from(["charging", "charging", "charging", "discharging", None]),
        "battery_percent": _maybe(st.integers(5, 100).map(float)),
        "battery_temp": _maybe(temperatures),
        "cpu_temp": _maybe(temperatures),
        "cpu_percent": _maybe(st.integers(0, 100).map(float)),
        "idle_s": _maybe(st.integers(0, 900)),
        "metered": st.sampled_from([False, False, True, None]),
    }
)
"""What a device may measure, if it is unlucky."""

stretches = st.tuples(st.just({}) | values, st.integers(1, 80), st.sampled_from([5, 5, 5, 10, 31]))
"""The same values for so many samples, so many seconds apart."""


@st.composite
def generated(draw: st.DrawFn) -> list[Sample]:
    """Stretches of being fine and not."""
    samples: list[Sample] = []
    at = 0
    for changes, number, pause in draw(st.lists(stretches, min_size=1, max_size=10)):
        for _ in range(number):
            at += pause
            samples.append(a_sample(len(samples) + 1, at, **changes))
    return samples


recorded = st.sampled_from(sorted(file.stem for file in TRACES.glob("*.csv"))).map(trace)
"""What real devices and people do: the traces of the files."""


def traces() -> st.SearchStrategy[list[Sample]]:
    """Generated ones mostly, recorded ones too."""
    return st.one_of(generated(), generated(), recorded)


@st.composite
def policies(draw: st.DrawFn) -> HarvestPolicy:
    """Policies that make sense."""
    low = draw(st.integers(0, 60))
    full = draw(st.integers(30, 55))
    bands = {"cpu": Band(60.0, 64.0)} if draw(st.booleans()) else {}
    return HarvestPolicy(
        min_battery_percent=low,
        resume_battery_percent=draw(st.integers(low, 70)),
        max_cpu_temp=float(full),
        thermal_throttle_temp=float(full + draw(st.integers(1, 15))),
        require_charging=draw(st.booleans()),
        max_cpu_percent=float(draw(st.integers(10, 100))),
        idle_seconds=draw(st.sampled_from([0, 0, 300])),
        metered_network=draw(st.booleans()),
        unknown_sensor=draw(st.sampled_from(["stop", "allow"])),
        unknown_allowed=draw(st.lists(st.sampled_from(["cpu", "battery", "temperature", "network"]), max_size=2)),
        bands=bands,
    )
