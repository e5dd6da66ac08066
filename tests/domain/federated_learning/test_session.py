"""A training session decides the sequence of its rounds."""

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.federated_learning.session import (
    ABANDONED,
    COMPLETED,
    PAUSED,
    RUNNING,
    AllRoundsDone,
    RoundAlreadyOpen,
    RoundsNotDone,
    SessionEnded,
    SessionNotPaused,
    SessionNotRunning,
    SessionRoster,
    TooManySessions,
    TrainingSession,
)
from domain.kernel import Refusal
from tests.facts import assert_replays, names_of, refuses
from tests.training import HASH, new_session

OTHER_HASH = "b" * 64


def test_a_session_runs_its_rounds_and_ends_with_the_last_model() -> None:
    session = new_session(rounds=2)
    for number in (1, 2):
        assert session.begin_round()[1] == number
        session.advance(number, f"{number}" * 64)
    session.complete()
    assert session.state_name == COMPLETED
    assert session.model_hash == "2" * 64
    assert names_of(session) == ["Created", "Started", *["RoundBegun", "ModelAdvanced"] * 2, "Completed"]
    assert_replays(session)


def test_a_lost_round_costs_a_number_and_not_a_round() -> None:
    session = new_session(rounds=1)
    first, _ = session.begin_round()
    session.lose_round(1, "too_few_updates")
    second, number = session.begin_round()
    assert number == 2
    assert first != second
    assert session.model_hash == HASH
    with refuses(RoundsNotDone, session):
        session.complete()


def test_the_outcome_of_a_round_counts_once() -> None:
    session = new_session(rounds=2)
    session.begin_round()
    session.advance(1, OTHER_HASH)
    before = len(session.pending_events)
    session.advance(1, OTHER_HASH)
    session.lose_round(1, "late")
    assert len(session.pending_events) == before


def test_one_round_is_open_at_a_time_and_no_more_than_asked_for() -> None:
    session = new_session(rounds=1)
    session.begin_round()
    with refuses(RoundAlreadyOpen, session):
        session.begin_round()
    session.advance(1, OTHER_HASH)
    with refuses(AllRoundsDone, session):
        session.begin_round()


def test_a_paused_session_opens_no_round_and_lets_the_open_one_end() -> None:
    session = new_session(rounds=2)
    session.begin_round()
    session.pause()
    session.advance(1, OTHER_HASH)
    assert (session.state_name, session.rounds_completed) == (PAUSED, 1)
    with refuses(SessionNotRunning, session):
        session.begin_round()
    with refuses(SessionNotRunning, session):
        session.pause()
    session.resume()
    with refuses(SessionNotPaused, session):
        session.resume()
    assert session.begin_round()[1] == 2


@pytest.mark.parametrize(
    ("refusal", "act"),
    [
        (SessionEnded, lambda s: s.abandon("again")),
        (SessionEnded, lambda s: s.complete()),
        (SessionNotRunning, lambda s: s.begin_round()),
        (SessionNotRunning, lambda s: s.pause()),
        (SessionNotPaused, lambda s: s.resume()),
    ],
)
def test_an_abandoned_session_never_changes_again(
    refusal: type[Refusal], act: Callable[[TrainingSession], object]
) -> None:
    session = new_session()
    session.begin_round()
    session.abandon("the owner has changed their mind")
    assert session.state_name == ABANDONED
    with refuses(refusal, session):
        act(session)
    session.advance(1, OTHER_HASH)
    assert session.model_hash == HASH


def test_a_full_roster_admits_nobody_until_somebody_leaves() -> None:
    roster, ids = SessionRoster(), [uuid4() for _ in range(3)]
    for session_id in ids:
        roster.admit(session_id, most=3)
    with refuses(TooManySessions, roster):
        roster.admit(uuid4(), most=3)
    roster.release(ids[0])
    roster.release(ids[0])
    roster.admit(uuid4(), most=3)
    assert len(roster.going) == 3
    assert_replays(roster)


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.integers(1, 6)), max_size=40))
def test_no_roster_ever_holds_more_sessions_than_it_may(most: int, steps: list[tuple[bool, int]]) -> None:
    roster, going = SessionRoster(), set[UUID]()
    for admit, number in steps:
        session_id = UUID(int=number)
        if not admit:
            roster.release(session_id)
            going.discard(session_id)
        elif len(going) < most:
            roster.admit(session_id, most)
            going.add(session_id)
        else:
            with refuses(TooManySessions, roster):
                roster.admit(session_id, most)
        assert roster.going == going
    assert_replays(roster)


STEPS: list[Callable[[TrainingSession], object]] = [
    lambda s: s.begin_round(),
    lambda s: s.advance(s.rounds_begun, OTHER_HASH),
    lambda s: s.lose_round(s.rounds_begun, "late"),
    lambda s: s.pause(),
    lambda s: s.resume(),
    lambda s: s.complete(),
    lambda s: s.abandon("why"),
]


@given(st.integers(1, 3), st.lists(st.sampled_from(STEPS), max_size=30))
def test_whatever_is_asked_rounds_never_overlap_repeat_or_exceed_what_was_agreed(
    rounds: int, steps: list[Callable[[TrainingSession], object]]
) -> None:
    session, begun = new_session(rounds), list[UUID]()
    for step in steps:
        was_open = session.open_round
        try:
            step(session)
        except Refusal:
            assert session.open_round == was_open
        if session.open_round is not None and session.open_round != was_open:
            assert was_open is None
            begun.append(session.open_round)
        assert session.rounds_completed <= rounds
        assert session.state_name != COMPLETED or session.rounds_completed == rounds
        assert session.open_round is None or session.state_name in (RUNNING, PAUSED)
    assert len(set(begun)) == len(begun) == session.rounds_begun
    assert_replays(session)
