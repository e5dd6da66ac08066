"""A window is judged by what is known of its device: all of its time, and nobody fails while the village was away."""

from collections.abc import Sequence
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from domain.marketplace.evidence import DEGRADED, OFFLINE, ONLINE, Change, Evidence, Interval, Latency, judge
from domain.marketplace.sla import Measured
from tests.trading import NOW, SLA

TEN_MINUTES = 600_000
WINDOW = Interval(NOW, NOW + timedelta(milliseconds=TEN_MINUTES))
UP = Change(NOW - timedelta(hours=1), ONLINE)


def at(minute: float) -> timedelta:
    return timedelta(minutes=minute)


def between(begins: float, ends: float) -> Interval:
    return Interval(NOW + at(begins), NOW + at(ends))


def measured(presence: Sequence[Change], **more: Sequence[object]) -> Measured:
    return judge(WINDOW, SLA, Evidence(presence, **more))[0]  # type: ignore[arg-type]


def test_a_device_that_was_there_kept_its_promise() -> None:
    assert measured([UP]) == Measured(TEN_MINUTES, 0, 0, 0)


def test_a_device_that_nobody_has_heard_of_is_unknown() -> None:
    assert measured([]) == Measured(0, 0, TEN_MINUTES, 0)


def test_a_device_that_left_fails_from_when_it_was_last_seen() -> None:
    assert measured([UP, Change(NOW + at(4), OFFLINE)]) == Measured(240_000, 360_000, 0, 0)


def test_what_happened_while_the_village_was_away_is_unknown() -> None:
    away = between(3, 8)
    gone = [UP, Change(NOW + at(4), OFFLINE), Change(NOW + at(7), ONLINE)]
    assert measured(gone, outages=[away]) == Measured(300_000, 0, 300_000, 0)


def test_time_the_customer_accepted_as_rest_is_excluded() -> None:
    rested = [UP, Change(NOW + at(4), OFFLINE), Change(NOW + at(6), ONLINE)]
    assert measured(rested, excluded=[between(4, 6)]) == Measured(480_000, 0, 0, 120_000)


def test_slower_than_promised_is_degraded() -> None:
    assert measured([UP], latencies=[Latency(NOW + at(9), 800)]) == Measured(540_000, 60_000, 0, 0)


def test_more_interruptions_than_promised_degrade_the_rest_of_the_window() -> None:
    changes = [UP, Change(NOW + at(1), DEGRADED), Change(NOW + at(2), ONLINE), Change(NOW + at(3), DEGRADED)]
    changes.append(Change(NOW + at(4), ONLINE))
    assert measured(changes) == Measured(120_000, 480_000, 0, 0)


instants = st.integers(-1_000_000, 700_000_000).map(lambda us: NOW + timedelta(microseconds=us))
intervals = st.lists(st.tuples(instants, instants).map(lambda two: Interval(*sorted(two))), max_size=4)
latencies = st.lists(st.builds(Latency, instants, st.integers(0, 900)), max_size=4)
presence = st.lists(st.builds(Change, instants, st.sampled_from([ONLINE, DEGRADED, OFFLINE])), max_size=6)


@given(
    presence=presence,
    outages=intervals,
    excluded=intervals,
    latency=st.lists(st.builds(Latency, instants, st.integers(0, 900)), max_size=4),
)
def test_every_millisecond_of_a_window_is_judged_once(
    presence: list[Change], outages: list[Interval], excluded: list[Interval], latency: list[Latency]
) -> None:
    evidence = Evidence(sorted(presence), sorted(latency), outages, excluded)
    found, digest = judge(WINDOW, SLA, evidence)
    times = (found.ok_ms, found.degraded_ms, found.unknown_ms, found.excluded_ms)
    assert sum(times) == TEN_MINUTES
    assert min(times) >= 0
    assert (found, digest) == judge(WINDOW, SLA, evidence)
