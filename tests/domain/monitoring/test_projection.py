"""The controls of a read model: what operators may ask, and what is refused."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Refusal
from domain.monitoring import projection as controls
from domain.monitoring.projection import (
    ControlsNotPausable,
    LetterAlreadySkipped,
    Projection,
    ProjectionAlreadyPaused,
    ProjectionNotPaused,
    TooManySkippedLetters,
)
from tests.facts import assert_replays, facts_of, names_of, refuses

WHY = "a reason"


@pytest.fixture
def projection() -> Projection:
    return Projection(name="wallets")


def test_what_is_asked_is_a_fact_with_its_reason(projection: Projection) -> None:
    projection.pause(WHY)
    projection.resume("it is over")
    projection.request_rebuild(WHY)
    projection.retry_letter("[1]", WHY)
    projection.skip_letter("[1]", 7, WHY)
    assert facts_of(projection)[1:] == [
        (Projection.Paused, {"name": "wallets", "reason": WHY}),
        (Projection.Resumed, {"name": "wallets", "reason": "it is over"}),
        (Projection.RebuildRequested, {"name": "wallets", "reason": WHY}),
        (Projection.LetterRetried, {"name": "wallets", "key": "[1]", "reason": WHY}),
        (Projection.LetterSkipped, {"name": "wallets", "key": "[1]", "position": 7, "reason": WHY}),
    ]
    assert_replays(projection)


def test_it_is_paused_once_and_resumed_only_when_paused(projection: Projection) -> None:
    with refuses(ProjectionNotPaused, projection):
        projection.resume(WHY)
    projection.pause(WHY)
    with refuses(ProjectionAlreadyPaused, projection):
        projection.pause(WHY)


def test_the_read_model_of_the_controls_is_never_paused_for_nothing_would_resume_it() -> None:
    with refuses(ControlsNotPausable, own := Projection(name=controls.CONTROLS)):
        own.pause(WHY)


def test_a_fact_is_skipped_once_for_a_row_and_so_many_and_no_more(
    projection: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "MAX_SKIPPED", 2)
    projection.skip_letter("[1]", 7, WHY)
    with refuses(LetterAlreadySkipped, projection):
        projection.skip_letter("[1]", 7, WHY)
    projection.skip_letter("[2]", 7, WHY)
    with refuses(TooManySkippedLetters, projection):
        projection.skip_letter("[3]", 7, WHY)


ASK: list[Callable[[Projection], None]] = [
    lambda projection: projection.pause(WHY),
    lambda projection: projection.resume(WHY),
    lambda projection: projection.request_rebuild(WHY),
    lambda projection: projection.skip_letter("[1]", 7, WHY),
    lambda projection: projection.retry_letter("[1]", WHY),
]


@given(st.lists(st.sampled_from(ASK), max_size=20))
def test_whatever_is_asked_pauses_and_resumes_alternate_and_nothing_is_skipped_twice(
    asked: list[Callable[[Projection], None]],
) -> None:
    projection = Projection(name="wallets")
    for ask in asked:
        before = len(projection.pending_events)
        try:
            ask(projection)
        except Refusal:
            assert len(projection.pending_events) == before
    switches = [name for name in names_of(projection) if name in ("Paused", "Resumed")]
    assert switches == ["Paused", "Resumed"] * (len(switches) // 2) + ["Paused"] * (len(switches) % 2)
    assert projection.paused == (len(switches) % 2 == 1)
    assert names_of(projection).count("LetterSkipped") <= 1
    assert_replays(projection)
