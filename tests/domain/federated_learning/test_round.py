"""A training round counts each participant's update once, and has one outcome."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.federated_learning.round import (
    ABANDONED,
    COMPLETED,
    OPEN,
    SEALED,
    RoundNotSealed,
    RoundOutcomeDiffers,
    TrainingRound,
)
from domain.federated_learning.update import (
    MAX_INSPECTIONS,
    Inspections,
    NotAParticipant,
    RoundNotAccepting,
    UpdateAlreadySubmitted,
    UpdateFiguresInvalid,
    UpdateLate,
    UpdateNormMismatch,
    check_announced,
)
from domain.kernel import Refusal
from infrastructure.blobs import BlobNotFound
from tests.facts import assert_replays, facts_of, names_of, refuses
from tests.training import DEADLINE, HASH, MANIFEST, NOW, POLICY, Shelf, arrays, blob_of, open_round, some_update

DEVICES = [UUID(int=number) for number in range(1, 5)]
LATER = NOW + timedelta(minutes=10)


def accept(training_round: TrainingRound, *device_ids: UUID) -> None:
    for device_id in device_ids:
        training_round.accept(device_id, some_update(device_id.int), "", LATER)


def sealed_round() -> TrainingRound:
    training_round = open_round(*DEVICES)
    accept(training_round, *DEVICES[:3])
    return training_round


def test_the_update_that_reaches_the_goal_seals_the_round_with_its_survivors_sorted() -> None:
    training_round = open_round(*DEVICES)
    accept(training_round, DEVICES[2], DEVICES[0], DEVICES[1])
    assert training_round.state_name == SEALED
    assert facts_of(training_round)[-1] == (
        TrainingRound.Sealed,
        {"survivors": DEVICES[:3], "dropped": [DEVICES[3]]},
    )
    assert_replays(training_round)


def test_a_round_with_fewer_participants_than_its_goal_is_sealed_by_the_last_of_them() -> None:
    training_round = open_round(*DEVICES[:2])
    accept(training_round, *DEVICES[:2])
    assert training_round.state_name == SEALED


def test_the_deadline_seals_a_round_that_has_enough_and_abandons_one_that_has_not() -> None:
    enough, too_few = open_round(*DEVICES), open_round(*DEVICES)
    accept(enough, *DEVICES[:2])
    accept(too_few, DEVICES[0])
    for training_round in (enough, too_few):
        training_round.close()
    assert (enough.state_name, enough.survivors) == (SEALED, DEVICES[:2])
    assert (too_few.state_name, too_few.reason) == (ABANDONED, "too_few_updates")


def test_closing_what_is_closed_changes_nothing() -> None:
    training_round = sealed_round()
    before = names_of(training_round)
    training_round.close()
    assert names_of(training_round) == before


@pytest.mark.parametrize(
    ("refusal", "act"),
    [
        (NotAParticipant, lambda r: r.accept(uuid4(), some_update(), "", LATER)),
        (UpdateAlreadySubmitted, lambda r: r.accept(DEVICES[0], some_update(9), "", LATER)),
        (UpdateLate, lambda r: r.accept(DEVICES[1], some_update(), "", DEADLINE)),
        (UpdateFiguresInvalid, lambda r: r.accept(DEVICES[1], some_update(examples=0), "", LATER)),
        (UpdateFiguresInvalid, lambda r: r.accept(DEVICES[1], some_update(), "x" * 513, LATER)),
        (
            UpdateFiguresInvalid,
            lambda r: r.accept(DEVICES[1], msgspec.structs.replace(some_update(), train_ms=-1), "", LATER),
        ),
        (RoundNotSealed, lambda r: r.complete(HASH, HASH, 0, {}, LATER)),
    ],
)
def test_an_open_round_refuses(refusal: type[Refusal], act: Callable[[TrainingRound], Any]) -> None:
    training_round = open_round(*DEVICES)
    accept(training_round, DEVICES[0])
    with refuses(refusal, training_round):
        act(training_round)


def test_a_sealed_round_takes_no_update() -> None:
    with refuses(RoundNotAccepting, training_round := sealed_round()):
        training_round.accept(DEVICES[3], some_update(), "", LATER)


def test_a_rejected_update_leaves_a_sealed_round_and_cannot_be_sent_again() -> None:
    training_round = sealed_round()
    training_round.reject(DEVICES[1], "blob_not_found")
    training_round.reject(DEVICES[1], "blob_not_found")
    assert training_round.survivors == [DEVICES[0], DEVICES[2]]
    assert names_of(training_round).count("UpdateRejected") == 1
    with refuses(UpdateAlreadySubmitted, training_round):
        training_round.accept(DEVICES[1], some_update(), "", LATER)
    training_round.complete(HASH, HASH, 0, {}, LATER)
    assert facts_of(training_round)[-1][1]["participants"] == [DEVICES[0], DEVICES[2]]
    assert_replays(training_round)


def test_a_sealed_round_with_too_few_left_is_abandoned() -> None:
    training_round = sealed_round()
    for device_id in DEVICES[:2]:
        training_round.reject(device_id, "blob_not_found")
    assert (training_round.state_name, training_round.reason) == (ABANDONED, "too_few_updates")
    with refuses(RoundNotSealed, training_round):
        training_round.complete(HASH, HASH, 0, {}, LATER)


def test_a_round_completes_once_with_its_metrics_and_duration() -> None:
    training_round = sealed_round()
    training_round.complete(HASH, "c" * 64, 5, {"accuracy": 0.5, "loss": float("nan")}, LATER)
    completed = facts_of(training_round)[-1][1]
    assert completed["model_metrics"] == {"accuracy": 0.5}
    assert completed["duration_ms"] == 600_000
    before = names_of(training_round)
    training_round.complete(HASH, "c" * 64, 5, {}, LATER)
    training_round.abandon("late")
    training_round.reject(DEVICES[0], "late")
    assert names_of(training_round) == before
    with refuses(RoundOutcomeDiffers, training_round):
        training_round.complete("d" * 64, "c" * 64, 5, {}, LATER)
    assert_replays(training_round)


def test_what_is_announced_of_an_update_is_what_was_found() -> None:
    check_announced(size=5, found_size=5, norm=1.0, found_norm=1.005)
    check_announced(size=5, found_size=5, norm=0.0, found_norm=0.0)
    for norm in (1.1, float("nan"), float("inf"), -1.0):
        with pytest.raises(UpdateNormMismatch):
            check_announced(size=5, found_size=5, norm=norm, found_norm=1.0)


def test_a_blob_is_read_once_however_often_its_update_is_decided() -> None:
    shelf, inspections = Shelf(), Inspections()
    blob_hash = shelf.put(blob_of(arrays()))
    found = inspections.of(MANIFEST, shelf, blob_hash)
    shelf.blobs.clear()
    assert inspections.of(MANIFEST, shelf, blob_hash) == found
    for seed in range(MAX_INSPECTIONS):
        inspections.of(MANIFEST, shelf, shelf.put(blob_of(arrays(seed=seed + 1))))
    with pytest.raises(BlobNotFound):
        inspections.of(MANIFEST, shelf, blob_hash)


STEPS = st.one_of(
    st.tuples(st.just("accept"), st.sampled_from(DEVICES)),
    st.tuples(st.just("reject"), st.sampled_from(DEVICES)),
    st.tuples(st.sampled_from(["close", "complete", "abandon"]), st.none()),
)


@given(st.integers(0, 4), st.lists(STEPS, max_size=15))
def test_whatever_happens_every_update_counts_at_most_once_and_a_round_has_one_outcome(
    selected: int, steps: list[tuple[str, UUID | None]]
) -> None:
    training_round = open_round(*DEVICES[:selected])
    for step, device_id in steps:
        ended = training_round.state_name in (COMPLETED, ABANDONED)
        before = names_of(training_round)
        try:
            if step == "accept" and device_id is not None:
                training_round.accept(device_id, some_update(), "", LATER)
            elif step == "reject" and device_id is not None:
                training_round.reject(device_id, "unreadable")
            elif step == "complete":
                training_round.complete(HASH, HASH, 0, {}, LATER)
            elif step == "close":
                training_round.close()
            else:
                training_round.abandon("stopped")
        except Refusal:
            assert names_of(training_round) == before
        assert not ended or names_of(training_round) == before
        assert not training_round.rejected & training_round.updates.keys()
        if training_round.state_name in (SEALED, COMPLETED):
            assert training_round.survivors == sorted(training_round.updates)
            assert len(training_round.survivors) >= POLICY.min_participants
    names = names_of(training_round)
    assert names.count("Sealed") + (training_round.state_name == OPEN) <= 1
    assert names.count("Completed") + names.count("Abandoned") <= 1
    assert_replays(training_round)


def test_a_device_that_leaves_is_not_aggregated_and_the_round_waits_for_the_others() -> None:
    training_round = open_round(*DEVICES[:3])
    accept(training_round, DEVICES[0])
    training_round.leave(DEVICES[0], "device_suspended")
    with refuses(NotAParticipant, training_round):
        accept(training_round, DEVICES[0])
    assert training_round.state_name == OPEN
    accept(training_round, *DEVICES[1:3])
    assert training_round.survivors == DEVICES[1:3]
    assert_replays(training_round)


def test_the_last_device_a_round_waits_for_ends_it_by_leaving() -> None:
    enough, too_few = open_round(*DEVICES[:3]), open_round(*DEVICES[:2])
    accept(enough, *DEVICES[:2])
    accept(too_few, DEVICES[0])
    enough.leave(DEVICES[2], "device_suspended")
    too_few.leave(DEVICES[1], "device_suspended")
    assert (enough.state_name, too_few.state_name) == (SEALED, ABANDONED)


def test_leaving_twice_a_round_that_is_over_or_one_that_has_not_asked_changes_nothing() -> None:
    sealed, opened = sealed_round(), open_round(*DEVICES[:3])
    opened.leave(DEVICES[0], "device_suspended")
    for one, device_id in ((sealed, DEVICES[0]), (opened, DEVICES[0]), (opened, DEVICES[3])):
        before = names_of(one)
        one.leave(device_id, "device_suspended")
        assert names_of(one) == before
