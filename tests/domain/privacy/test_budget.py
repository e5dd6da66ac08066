"""A privacy budget: what is reserved and spent is never more than was granted, and nothing spent comes back."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Refusal, new_scope, within
from domain.kernel.time import utc
from domain.privacy import budget as rules
from domain.privacy.budget import (
    MAX_EPSILON_MICRO,
    MAX_REMEMBERED,
    MAX_RESERVATIONS,
    BudgetReservationEnded,
    BudgetReservationReused,
    BudgetReservationUnknown,
    DeltaDiffers,
    DeltaInvalid,
    EpsilonInvalid,
    PrivacyBudget,
    PrivacyBudgetEnded,
    PrivacyBudgetExceeded,
    TooManyReservations,
)
from domain.privacy.service import PrivacyService
from tests.facts import assert_replays, names_of, refuses
from tests.memory import MemoryRecorder, memory_log

ONE, OTHER = UUID(int=1), UUID(int=2)


def granted(epsilon_micro: int = 1_000) -> PrivacyBudget:
    return PrivacyBudget.grant(
        subject_id=uuid4(), purpose="federated_learning", epsilon_micro=epsilon_micro, delta_pico=10_000_000
    )


def test_a_reservation_keeps_back_and_a_commit_spends_for_good() -> None:
    budget = granted()
    budget.reserve(ONE, 600)
    assert (budget.reserved, budget.spent, budget.remaining) == (600, 0, 400)
    budget.commit(ONE, 500)
    assert (budget.reserved, budget.spent, budget.remaining) == (0, 500, 500)
    with refuses(BudgetReservationEnded, budget):
        budget.release(ONE)
    assert names_of(budget) == ["Granted", "Reserved", "Committed"]
    assert_replays(budget)


def test_what_is_released_can_be_reserved_again() -> None:
    budget = granted()
    budget.reserve(ONE, 1_000)
    budget.release(ONE)
    budget.reserve(OTHER, 1_000)
    assert budget.remaining == 0
    with refuses(BudgetReservationEnded, budget):
        budget.reserve(ONE, 1)
    assert_replays(budget)


def test_more_than_remains_is_refused_and_not_a_millionth_less() -> None:
    budget = granted()
    budget.reserve(ONE, 999)
    with refuses(PrivacyBudgetExceeded, budget):
        budget.reserve(OTHER, 2)
    with refuses(PrivacyBudgetExceeded, budget):
        budget.commit(ONE, 1_000)
    budget.reserve(OTHER, 1)
    assert not budget.exhausted


def test_spending_the_last_exhausts_it_until_more_is_granted() -> None:
    budget = granted()
    budget.reserve(ONE, 1_000)
    budget.commit(ONE, 1_000)
    assert (names_of(budget)[-1], budget.exhausted) == ("Exhausted", True)
    with refuses(PrivacyBudgetEnded, budget):
        budget.reserve(OTHER, 1)
    budget.raise_by(5, 10_000_000)
    assert (budget.remaining, budget.exhausted) == (5, False)
    assert_replays(budget)


def test_giving_up_ends_it_and_spares_what_is_reserved() -> None:
    budget = granted()
    budget.reserve(ONE, 10)
    budget.exhaust()
    budget.exhaust()
    budget.commit(ONE, 10)
    assert names_of(budget) == ["Granted", "Reserved", "Exhausted", "Committed"]
    assert_replays(budget)


def test_a_reservation_has_its_id_for_itself() -> None:
    budget = granted()
    budget.reserve(ONE, 1)
    with refuses(BudgetReservationReused, budget):
        budget.reserve(ONE, 1)
    with refuses(BudgetReservationUnknown, budget):
        budget.commit(OTHER, 1)
    with refuses(BudgetReservationUnknown, budget):
        budget.release(OTHER)


def test_reservations_are_bounded() -> None:
    budget = granted(MAX_EPSILON_MICRO)
    for number in range(MAX_RESERVATIONS):
        budget.reserve(UUID(int=number), 1)
    with refuses(TooManyReservations, budget):
        budget.reserve(uuid4(), 1)


def test_a_budget_knows_the_newest_thousand_of_its_reservations_that_are_over() -> None:
    budget = granted(MAX_EPSILON_MICRO)
    for number in range(MAX_REMEMBERED + 2):
        budget.reserve(UUID(int=number), 1)
        budget.release(UUID(int=number))
    assert list(budget.ended) == [UUID(int=number) for number in range(2, MAX_REMEMBERED + 2)]
    with refuses(BudgetReservationEnded, budget):
        budget.release(UUID(int=2))
    with refuses(BudgetReservationUnknown, budget):
        budget.release(UUID(int=1))
    assert_replays(budget)


@pytest.mark.parametrize("epsilon", [0, -1, MAX_EPSILON_MICRO + 1, True, 1.5])
def test_an_epsilon_that_is_none_is_refused(epsilon: Any) -> None:
    with pytest.raises(EpsilonInvalid):
        granted(epsilon)
    with pytest.raises(EpsilonInvalid):
        granted().reserve(ONE, epsilon)


def test_a_budget_is_at_one_delta_and_at_most_a_thousand() -> None:
    budget = granted()
    with refuses(DeltaDiffers, budget):
        budget.raise_by(1, 1)
    with refuses(EpsilonInvalid, budget):
        budget.raise_by(MAX_EPSILON_MICRO, 10_000_000)
    for delta in (0, 10**10 + 1, True):
        with pytest.raises(DeltaInvalid):
            PrivacyBudget.grant(subject_id=ONE, purpose="x", epsilon_micro=1, delta_pico=delta)


DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "commit", "release", "raise", "exhaust"]), st.integers(1, 4), st.integers(0, 60)
    ),
    max_size=40,
)


@given(deeds=DEEDS)
def test_no_sequence_of_commands_spends_more_than_was_granted_or_ends_a_reservation_twice(
    deeds: list[tuple[str, int, int]],
) -> None:
    budget, spent = granted(100), 0
    for deed, number, amount in deeds:
        try:
            match deed:
                case "reserve":
                    budget.reserve(UUID(int=number), amount)
                case "commit":
                    budget.commit(UUID(int=number), amount)
                case "release":
                    budget.release(UUID(int=number))
                case "raise":
                    budget.raise_by(amount, 10_000_000)
                case _:
                    budget.exhaust()
        except Refusal:
            pass
        assert budget.remaining >= 0
        assert budget.spent >= spent
        assert budget.granted == budget.remaining + budget.reserved + budget.spent
        assert not budget.open.keys() & budget.ended.keys()
        spent = budget.spent
    assert_replays(budget)


@given(
    deeds=st.lists(
        st.tuples(st.sampled_from(["reserve", "commit", "release", "restart"]), st.integers(0, 2)),
        min_size=15,
        max_size=30,
    )
)
def test_a_reservation_is_made_and_ends_once_however_long_ago_and_in_whatever_process_it_was(
    deeds: list[tuple[str, int]],
) -> None:
    """The budget remembers one ended reservation; a process that restarts knows nothing but the log."""
    log = memory_log(MemoryRecorder(lambda: utc(2026, 1, 1)))
    service, subject_id, made, ended = PrivacyService(log), uuid4(), set[int](), set[int]()
    with pytest.MonkeyPatch.context() as limited, within(new_scope("test")):
        limited.setattr(rules, "MAX_REMEMBERED", 1)
        named: dict[str, Any] = {"subject_id": subject_id, "purpose": "x"}
        service.grant_budget(**named, epsilon_micro=100, delta_pico=1)
        for deed, number in deeds:
            one = named | {"reservation_id": UUID(int=number)}
            if deed == "restart":
                log.cache = type(log.cache)(4_096)
            elif deed == "reserve" and number in made:
                with pytest.raises(BudgetReservationEnded if number in ended else BudgetReservationReused):
                    service.reserve_budget(**one, epsilon_micro=1)
            elif deed == "reserve":
                service.reserve_budget(**one, epsilon_micro=1)
                made.add(number)
            elif number in made - ended:
                service.commit_budget(**one, epsilon_micro=1) if deed == "commit" else service.release_budget(**one)
                ended.add(number)
            else:
                with pytest.raises((BudgetReservationEnded, BudgetReservationUnknown)):
                    service.commit_budget(**one, epsilon_micro=1) if deed == "commit" else service.release_budget(**one)
            budget = log.load(PrivacyBudget, PrivacyBudget.create_id(subject_id, "x"))
            assert (set(budget.open), len(budget.ended)) == ({UUID(int=one) for one in made - ended}, len(ended) and 1)
