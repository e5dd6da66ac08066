"""When a session runs and pauses: by hand, on traces of files, and for every trace and policy there can be."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.harvest.contribution import BASIS
from domain.harvest.decide import FLAPPING_WITHIN, MIN_PAUSE, Watch, against, duty_bp, fallen_silent, step
from domain.harvest.policy import Band, HarvestPolicy, PolicyInvalid, Window, checked, stricter
from domain.harvest.sample import Sample
from domain.harvest.states import ACTIVE, CLOSED, PAUSED, RUNNING
from domain.kernel.time import milliseconds
from tests.harvesting import SOME, START, a_sample, folded, policies, trace, traces, transitions

USUAL = HarvestPolicy()


def fine(first: int, last: int) -> list[Sample]:
    return [a_sample(number) for number in range(first, last + 1)]


def test_a_device_that_is_fine_runs_from_its_first_sample_at_full_duty() -> None:
    *_, (_, watch, _) = folded(USUAL, fine(1, 13))
    assert (watch.status, watch.run_ms, watch.duty_ms) == (RUNNING, 60_000, 60_000 * BASIS)


def test_one_bad_sample_is_no_pause_and_two_are() -> None:
    unplugged = {"power": "discharging"}
    assert transitions(USUAL, [*fine(1, 2), a_sample(3, **unplugged), *fine(4, 9)]) == [("running", "clear")]
    bad = [*fine(1, 2), a_sample(3, **unplugged), a_sample(4, **unplugged)]
    assert transitions(USUAL, bad) == [("running", "clear"), ("paused", "not_charging")]


def test_one_bad_sample_is_a_pause_when_nothing_good_was_seen_for_ten_seconds() -> None:
    seldom = [a_sample(1, 0), a_sample(2, 15, power="discharging")]
    assert transitions(USUAL, seldom) == [("running", "clear"), ("paused", "not_charging")]


@pytest.mark.parametrize("critical", [{"battery_temp": 60.0}, {"battery_percent": 9.0}])
def test_a_critical_sample_is_a_pause_at_once(critical: dict[str, float]) -> None:
    assert transitions(USUAL, [*fine(1, 2), a_sample(3, **critical)])[-1][0] == PAUSED


def test_a_pause_lasts_until_five_minutes_have_been_clear() -> None:
    bad = [a_sample(number, cpu_percent=90.0) for number in (3, 4)]
    found = folded(USUAL, [*fine(1, 2), *bad, *fine(5, 70)])
    paused, resumed = [transition.at for _, _, transition in found if transition is not None][1:]
    assert resumed - paused == MIN_PAUSE


def test_a_battery_resumes_at_25_percent_though_it_pauses_below_20() -> None:
    low = [a_sample(number, battery_percent=19.0) for number in (2, 3)]
    level = [a_sample(number, battery_percent=24.0) for number in range(4, 80)]
    assert transitions(USUAL, [a_sample(1), *low, *level]) == [("running", "clear"), ("paused", "battery_low")]


def test_duty_falls_linearly_from_45_to_55_degrees() -> None:
    duties = [duty_bp(USUAL, a_sample(1, battery_temp=temp)) for temp in (44.9, 45.0, 47.5, 50.0, 55.0, 70.0)]
    assert duties == [10_000, 10_000, 7_500, 5_000, 0, 0]


def test_a_warm_device_is_throttled_and_paid_for_its_duty() -> None:
    warm = [a_sample(number, battery_temp=50.0) for number in range(2, 14)]
    *_, (_, watch, _) = folded(USUAL, [a_sample(1), *warm])
    assert watch.status == "throttled"
    assert (watch.run_ms, watch.duty_ms) == (60_000, 5_000 * BASIS + 55_000 * 5_000)


def test_a_kind_of_sensor_may_have_a_band_of_its_own() -> None:
    laptop = HarvestPolicy(bands={"cpu": Band(80.0, 95.0)})
    hot = a_sample(1, cpu_temp=70.0)
    assert against(USUAL, hot) is not None
    assert against(laptop, hot) is None


def test_a_device_that_flaps_is_closed() -> None:
    cooling = [a_sample(n, battery_temp=44.0 if n // 14 % 2 else 46.0) for n in range(1, 121)]
    assert transitions(USUAL, [a_sample(0, 0.5), *cooling])[-1] == ("closed", "flapping")


def test_an_unknown_sensor_stops_unless_the_owner_allows_it() -> None:
    blind = [a_sample(number, battery_temp=None) for number in (1, 2, 3)]
    assert transitions(USUAL, blind) == []
    assert transitions(HarvestPolicy(unknown_allowed=["temperature"]), blind) == [("running", "clear")]


def test_a_device_on_mains_has_no_battery_to_ask() -> None:
    assert transitions(USUAL, [a_sample(1, power="mains", battery_percent=None)]) == [("running", "clear")]


def test_a_schedule_is_kept_also_over_midnight() -> None:
    night = HarvestPolicy(schedule=[Window(23 * 60, 6 * 60)])
    assert transitions(night, fine(1, 3)) == []
    assert transitions(HarvestPolicy(schedule=[Window(720, 780)]), fine(1, 3)) == [("running", "clear")]


def test_silence_counts_nothing_and_pauses() -> None:
    found = folded(USUAL, [a_sample(1, 0), a_sample(2, 5), a_sample(3, 40)])
    assert (found[-1][1].status, found[-1][1].run_ms) == (PAUSED, 5_000)
    running = folded(USUAL, fine(1, 2))[-1][1]
    assert fallen_silent(running, START + timedelta(seconds=39)) is None
    silent = fallen_silent(running, START + timedelta(seconds=40))
    assert silent is not None
    assert silent.reading.kind == "silent"


def test_a_laptop_that_is_unplugged_pauses_and_goes_on_when_it_is_plugged_in_again() -> None:
    laptop = HarvestPolicy(bands={"cpu": Band(80.0, 95.0)})
    assert transitions(laptop, trace("laptop-unplugged")) == [
        ("running", "clear"), ("paused", "not_charging"), ("running", "clear"),
    ]  # fmt: skip


def test_a_phone_that_warms_up_is_throttled_before_it_pauses() -> None:
    assert transitions(USUAL, trace("phone-warming-up")) == [
        ("running", "clear"), ("throttled", "warm"), ("paused", "too_hot"), ("running", "clear"),
    ]  # fmt: skip


def test_a_desktop_is_left_alone_while_its_owner_uses_it() -> None:
    desktop = HarvestPolicy(idle_seconds=120, bands={"cpu": Band(80.0, 95.0)})
    assert transitions(desktop, trace("desktop-in-use")) == [
        ("running", "clear"), ("paused", "in_use"), ("running", "clear"),
    ]  # fmt: skip


def test_the_recorded_machine_without_sensors_runs_only_when_its_owner_allows_the_unknown() -> None:
    recorded = trace("recorded-virtual-machine")
    assert transitions(USUAL, recorded) == []
    assert transitions(HarvestPolicy(unknown_sensor="allow", max_cpu_percent=100.0), recorded)[0] == (RUNNING, "clear")


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    for wrong in (
        HarvestPolicy(resume_battery_percent=10),
        HarvestPolicy(max_cpu_temp=60.0),
        HarvestPolicy(bands={"gpu": Band(1.0, 2.0)}),
        HarvestPolicy(unknown_sensor="perhaps"),
        HarvestPolicy(schedule=[Window(0, 1_441)]),
    ):
        with pytest.raises(PolicyInvalid):
            checked(wrong)


@SOME
@given(policies(), traces())
def test_it_never_runs_after_a_critical_sample(policy: HarvestPolicy, samples: list[Sample]) -> None:
    for sample, watch, _ in folded(policy, samples):
        reading = against(policy, sample)
        assert not (reading and reading.critical and watch.status in ACTIVE)


@SOME
@given(policies(), traces())
def test_it_resumes_no_sooner_than_the_minimum_pause_and_trips_on_one_sample_only_when_critical(
    policy: HarvestPolicy, samples: list[Sample]
) -> None:
    found = [(watch, transition) for _, watch, transition in folded(policy, samples) if transition]
    for (_, before), (_, after) in pairwise(found):
        if before.to == PAUSED and after.to == RUNNING:
            assert after.at - before.at >= MIN_PAUSE
        assert before.to != CLOSED


@SOME
@given(policies(), traces())
def test_it_counts_no_more_than_the_time_that_passed_and_nothing_while_it_pauses(
    policy: HarvestPolicy, samples: list[Sample]
) -> None:
    before = Watch()
    for sample, watch, _ in folded(policy, samples):
        passed = milliseconds(before.last_at, sample.sampled_at) if before.last_at else 0
        assert 0 <= watch.run_ms - before.run_ms <= passed
        assert 0 <= watch.duty_ms - before.duty_ms <= passed * BASIS
        if before.status not in ACTIVE:
            assert watch.duty_ms == before.duty_ms
        before = watch


@SOME
@given(policies(), traces())
def test_no_more_than_four_transitions_come_in_ten_minutes_before_the_one_that_closes(
    policy: HarvestPolicy, samples: list[Sample]
) -> None:
    changes = [found for _, _, found in folded(policy, samples) if found][1:]  # the first is the start
    for first, fifth in zip(changes, changes[4:], strict=False):
        assert fifth.to == CLOSED or fifth.at - first.at >= FLAPPING_WITHIN


@SOME
@given(policies(), policies(), traces())
def test_a_stricter_policy_runs_at_no_moment_when_a_laxer_one_pauses(
    one: HarvestPolicy, other: HarvestPolicy, samples: list[Sample]
) -> None:
    """Up to where the laxer one is closed for flapping: the stricter one may well outlive it."""
    both = checked(stricter(one, other))
    for (_, strict, _), (_, lax, _) in zip(folded(both, samples), folded(one, samples), strict=True):
        if lax.status == CLOSED:
            break
        assert strict.status not in ACTIVE or lax.status in ACTIVE
        assert strict.duty_ms <= lax.duty_ms


@pytest.mark.parametrize("gap_s", [31, 400])
def test_a_device_that_was_silent_while_it_paused_has_to_be_clear_for_five_minutes_from_then(gap_s: int) -> None:
    hot = [a_sample(2, battery_temp=61.0)]
    returned = [a_sample(number, 10 + gap_s + 5 * number) for number in range(3, 70)]
    _, (resumed, _) = [
        (sample.sampled_at, found)
        for sample, _, found in folded(USUAL, [a_sample(1), *hot, *returned])
        if found is not None and found.to == RUNNING
    ]
    assert resumed - returned[0].sampled_at == MIN_PAUSE


@SOME
@given(policies(), traces(), st.integers(0, 2**32))
def test_deciding_again_decides_the_same(policy: HarvestPolicy, samples: list[Sample], cut: int) -> None:
    whole = folded(policy, samples)
    at = cut % len(whole)
    watch = whole[at][1]
    for sample, after, transition in whole[at + 1 :]:
        watch, found = step(policy, watch, sample)
        assert (watch, found) == (after, transition)
