"""A harvest session and its device: one at a time, what samples bring, audits, and what is refused."""

from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.harvest.audit import AuditUnknown, Job, answer_of, is_chosen, job_of
from domain.harvest.contribution import Contribution, HarvestSessionOver, quality_bp
from domain.harvest.decide import Watch, emptied, step
from domain.harvest.device import HarvestDevice, SessionOverlaps
from domain.harvest.policy import HarvestPolicy
from domain.harvest.sample import (
    Sample,
    SampleImpossible,
    SampleInFuture,
    SamplesOutOfOrder,
    SamplesReplayed,
    SampleTooOld,
    check_batch,
)
from domain.harvest.session import HarvestSession
from domain.kernel import Refusal
from tests.facts import assert_replays, names_of, refuses
from tests.harvesting import SOME, START, a_sample, policies, trace, traces

POLICY = HarvestPolicy()


def a_session(policy: HarvestPolicy = POLICY, job: Job | None = None, missing: str | None = None) -> HarvestSession:
    session = HarvestSession(
        session_id=uuid4(), device_id=uuid4(), owner_id=uuid4(), number=1, policy=policy, sensors=[], requested_at=START
    )
    session.admit([], missing, job)
    return session


def lived(session: HarvestSession, samples: list[Sample]) -> Watch:
    """What a session takes of its samples, and what is left to be counted."""
    watch = session.watch(None)
    for sample in samples:
        watch, found = step(session.policy, watch, sample)
        if found is not None:
            session.take(found, watch)
            watch = emptied(watch)
    session.close_segment(watch)
    return watch


def test_a_device_has_one_session_at_a_time_and_does_not_choose_its_id() -> None:
    device = HarvestDevice(device_id=UUID(int=7), owner_id=uuid4())
    first = device.open()
    with refuses(SessionOverlaps, device):
        device.open()
    device.end(first)
    device.end(first)
    assert device.open() != first
    assert names_of(device) == ["Known", "SessionOpened", "SessionEnded", "SessionOpened"]
    assert_replays(device)


def test_a_session_without_a_sensor_that_its_policy_needs_is_rejected() -> None:
    session = a_session(missing="temperature")
    assert names_of(session) == ["Requested", "Rejected"]
    with refuses(HarvestSessionOver, session):
        session.require_open()


def test_a_session_tells_the_segments_and_the_reasons_of_its_pauses() -> None:
    session = a_session()
    lived(session, trace("phone-warming-up"))
    assert names_of(session) == [
        "Requested", "SessionAdmitted", "SafetyCleared", "SegmentClosed", "SafetyTripped", "SegmentClosed",
        "SafetyTripped", "SafetyCleared", "SegmentClosed",
    ]  # fmt: skip
    session.close("stopped", START)
    session.close("stopped", START)
    assert session.contribution.verified_ms < session.contribution.run_ms
    session.reward(uuid4(), 5)
    session.reward(uuid4(), 6)
    assert names_of(session)[-2:] == ["SessionClosed", "Rewarded"]
    assert_replays(session)


@SOME
@given(policies(), traces(), st.lists(st.integers(0, 10_000), max_size=8))
def test_samples_that_are_folded_again_after_a_crash_change_nothing(
    policy: HarvestPolicy, samples: list[Sample], again: list[int]
) -> None:
    once, twice = a_session(policy), a_session(policy)
    watch = twice.watch(None)
    crashes = {number % len(samples) for number in again}
    lived(once, samples)
    for number, sample in enumerate(samples):
        for _ in range(2 if number in crashes else 1):
            after, found = step(policy, watch, sample)
            if found is not None:
                twice.take(found, after)
        watch = emptied(after) if found else after
    twice.close_segment(watch)
    assert (twice.contribution, twice.status) == (once.contribution, once.status)
    wall = samples[-1].sampled_at - samples[0].sampled_at
    assert timedelta(milliseconds=once.contribution.verified_ms) <= wall
    assert_replays(twice)


def test_what_was_kept_beside_the_log_is_used_only_while_the_log_has_not_gone_on() -> None:
    session = a_session()
    watch = lived(session, [a_sample(1), a_sample(2)])
    assert session.watch(watch) == watch
    later = a_sample(3, battery_temp=60.0)
    after, found = step(POLICY, watch, later)
    assert found is not None
    session.take(found, after)
    assert session.watch(watch) == Watch(
        status="paused", sequence=3, last_at=later.sampled_at, good_at=later.sampled_at, unclear_at=later.sampled_at,
        from_at=later.sampled_at,
    )  # fmt: skip


def test_a_session_that_is_to_stop_counts_nothing_more() -> None:
    session = a_session()
    lived(session, [a_sample(1), a_sample(2)])
    session.request_stop("maintenance")
    session.request_stop("maintenance")
    before = session.contribution
    lived(session, [a_sample(3), a_sample(4)])
    assert session.contribution == before
    session.close("stopped", START)
    with refuses(HarvestSessionOver, session):
        session.request_stop("again")


# Audits.


@pytest.mark.parametrize(
    ("given_answer", "verdict"), [("right", "AuditPassed"), ("0" * 64, "AuditFailed"), (None, "AuditFailed")]
)
def test_an_audit_is_passed_by_the_known_answer_only(given_answer: str | None, verdict: str) -> None:
    job = Job("ab" * 32, 10)
    session = a_session(job=job)
    if given_answer is not None:
        session.give_answer(answer_of(job) if given_answer == "right" else given_answer)
    assert session.judge() is session.judge() is (verdict == "AuditPassed")
    assert names_of(session)[-1] == verdict
    assert names_of(session).count(verdict) == 1
    assert_replays(session)


def test_an_audit_is_answered_once_by_whom_it_was_put_to() -> None:
    session = a_session(job=Job("ab" * 32, 10))
    session.give_answer("1" * 64)
    session.give_answer("1" * 64)
    with refuses(AuditUnknown, session):
        session.give_answer("2" * 64)
    with refuses(AuditUnknown, other := a_session()):
        other.give_answer("1" * 64)


def test_every_session_is_audited_until_ten_were_valid_then_fewer_and_the_log_chooses_the_same() -> None:
    drawn = [(UUID(int=number), uuid4()) for number in range(1_000)]
    assert all(is_chosen(session_id, entropy, 9) for session_id, entropy in drawn)
    chosen = [is_chosen(session_id, entropy, 20) for session_id, entropy in drawn]
    assert 20 <= sum(chosen) <= 90
    assert chosen == [is_chosen(session_id, entropy, 20) for session_id, entropy in drawn]
    assert job_of(*drawn[0]) == job_of(*drawn[0]) != job_of(*drawn[1])


def test_a_failed_audit_starts_the_count_anew() -> None:
    device = HarvestDevice(device_id=UUID(int=7), owner_id=uuid4())
    for valid in (True, True):
        device.count_audit(uuid4(), valid=valid)
    assert device.valid_in_a_row == 2
    failed = uuid4()
    device.count_audit(failed, valid=False)
    device.count_audit(failed, valid=False)
    assert device.valid_in_a_row == 0
    assert names_of(device).count("AuditCounted") == 3


def test_quality_is_the_share_of_the_samples_that_came() -> None:
    assert [quality_bp(Contribution(60_000, 0, samples)) for samples in (3, 6, 12, 500)] == [
        2_500,
        5_000,
        10_000,
        10_000,
    ]


# What no device can have measured.

GOOD = [a_sample(1), a_sample(2)]


@pytest.mark.parametrize(
    ("samples", "refusal"),
    [
        ([], SamplesOutOfOrder),
        ([GOOD[1], GOOD[0]], SamplesOutOfOrder),
        ([GOOD[0], GOOD[0]], SamplesOutOfOrder),
        ([GOOD[0], msgspec.structs.replace(GOOD[1], sampled_at=GOOD[0].sampled_at)], SamplesOutOfOrder),
        ([a_sample(number) for number in range(1, 182)], SamplesOutOfOrder),
        ([a_sample(3, 30.0)], SampleInFuture),
        ([a_sample(3, -10.0)], SampleTooOld),
        ([a_sample(3, 10.0, battery_percent=101.0)], SampleImpossible),
        ([a_sample(3, 10.0, cpu_temp=200.0)], SampleImpossible),
        ([a_sample(3, 10.0, power="solar")], SampleImpossible),
        ([a_sample(3, 10.0, power="mains", battery_percent=50.0)], SampleImpossible),
        ([a_sample(3, 10.0, idle_s=-1)], SampleImpossible),
    ],
)
def test_a_batch_that_cannot_have_been_measured_is_refused_by_name(
    samples: list[Sample], refusal: type[Refusal]
) -> None:
    with pytest.raises(refusal) as caught:
        check_batch(samples, after=0, since=START, now=START + timedelta(seconds=20))
    assert caught.type is refusal


def test_samples_are_taken_once_and_soon() -> None:
    check_batch(GOOD, after=0, since=START, now=START + timedelta(seconds=20))
    with pytest.raises(SamplesReplayed):
        check_batch(GOOD, after=1, since=START, now=START + timedelta(seconds=20))
    with pytest.raises(SampleTooOld):
        check_batch(GOOD, after=0, since=START, now=START + timedelta(minutes=16))
