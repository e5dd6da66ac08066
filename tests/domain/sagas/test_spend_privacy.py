"""A round takes of a privacy budget what it reserved, once, and only where the update is in the model."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Fact
from domain.privacy.budget import PrivacyBudget
from domain.sagas import spend_privacy
from domain.sagas.operations import SagaOperations
from domain.sagas.process import COMPENSATE, COMPENSATED, COMPLETED, PARKED, RETRY, Process
from domain.sagas.spend_privacy import PURPOSE, SpendPrivacy, privacy_process_id_of
from infrastructure.database import Database
from tests.devices import enrol
from tests.sagas import DEATHS, Faults, Oracle, deliveries, faults, stormy
from tests.training_world import MemoryTrainingWorld, Trainings, TrainingWorld

COST = 1_000_000


class Spending(Trainings):
    """Four devices; the first two have an owner in common. Rounds are opened and ended by the tests."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self.privacy = self.village.privacy
        self.owner_id = UUID(int=77)
        registry = self.village.device_registry
        shared = [enrol(registry, owner_id=self.owner_id, now=self.now) for _ in range(2)]
        self.directory.device_ids = self.devices = [*shared, *self.directory.device_ids[2:]]
        self.plan = SpendPrivacy(self.village.deadlines, COST)
        self.village = replace(self.village, sagas=SagaOperations(self.log, [self.plan]))
        self.stage.handlers, self.stage.village = [self.plan], self.village

    def grant(self, subject_id: UUID, epsilon_micro: int = 10 * COST) -> None:
        named = {"subject_id": subject_id, "purpose": PURPOSE}
        self.ask(self.privacy.grant_budget, **named, epsilon_micro=epsilon_micro, delta_pico=10)

    def budget(self, subject_id: UUID) -> PrivacyBudget:
        return self.log.load(PrivacyBudget, PrivacyBudget.create_id(subject_id, PURPOSE))

    def figures(self, subject_id: UUID) -> tuple[int, int]:
        """What is reserved and what is spent, in participations."""
        budget = self.budget(subject_id)
        return budget.reserved // COST, budget.spent // COST

    def process(self, round_id: UUID) -> Process:
        return self.log.load(Process, privacy_process_id_of(round_id))

    def aggregated(self, round_id: UUID) -> None:
        """Three devices answer, one of them the last; the model is there."""
        self.answer(round_id)
        self.complete(round_id)
        self.settle()

    def answer(self, round_id: UUID, devices: int = 3) -> None:
        asked = self.round(round_id)
        for device_id in [one for one in self.devices if one not in asked.left][:devices]:
            self.submit(round_id, device_id, seed=1, examples=10)

    def resolve(self, round_id: UUID, action: str) -> None:
        self.stage.resolve(self.process(round_id).id, action)


class MemorySpending(Spending, MemoryTrainingWorld):
    """In memory."""


class StoredSpending(Spending, TrainingWorld):
    """In a database."""


@pytest.fixture
def world() -> Iterator[Spending]:
    world = MemorySpending()
    yield world
    world.close()


@pytest.fixture
def stored_world(database_url: str, database: Database) -> Iterator[Spending]:
    world = StoredSpending(database_url, database)
    yield world
    world.close()


def test_what_is_reserved_at_selection_is_spent_where_the_update_is_in_the_model(world: Spending) -> None:
    first, last = world.devices[0], world.devices[3]
    for device_id in (first, last):
        world.grant(device_id)
    round_id = world.open_round()
    world.settle()
    assert [world.figures(device_id) for device_id in (first, last)] == [(1, 0), (1, 0)]
    world.aggregated(round_id)
    assert world.process(round_id).status == COMPLETED
    assert [world.figures(device_id) for device_id in (first, last)] == [(0, 1), (0, 0)]


def test_a_lost_round_costs_nothing(world: Spending) -> None:
    world.grant(world.devices[0])
    round_id = world.open_round()
    world.answer(round_id, devices=1)
    world.settle()
    world.ask(world.training.close_training_round, round_id=round_id)
    world.settle()
    assert (world.round(round_id).state_name, world.figures(world.devices[0])) == ("abandoned", (0, 0))
    assert world.process(round_id).status == COMPLETED


def test_an_update_that_cannot_be_read_costs_nothing(world: Spending) -> None:
    world.grant(world.devices[0])
    round_id = world.open_round()
    world.answer(round_id)
    world.ask(world.training.reject_update, round_id=round_id, device_id=world.devices[0], reason="update_not_finite")
    world.complete(round_id)
    world.settle()
    assert world.figures(world.devices[0]) == (0, 0)


def test_devices_of_one_owner_share_its_budget_and_the_one_too_many_leaves_the_round(world: Spending) -> None:
    world.grant(world.owner_id, COST)
    round_id = world.open_round()
    world.settle()
    (left,) = world.round(round_id).left
    assert left in world.devices[:2]
    assert world.figures(world.owner_id) == (1, 0)
    world.aggregated(round_id)
    assert (world.figures(world.owner_id), world.budget(world.owner_id).exhausted) == ((0, 1), True)


def test_a_device_whose_owner_has_too_little_reserves_nothing_of_its_own(world: Spending) -> None:
    world.grant(world.devices[0])
    world.grant(world.owner_id, COST - 1)
    round_id = world.open_round()
    world.settle()
    assert world.devices[0] in world.round(round_id).left
    assert (world.figures(world.devices[0]), world.budget(world.owner_id).reserved) == ((0, 0), 0)


def test_what_was_given_before_it_could_be_reserved_exhausts_the_budget(world: Spending) -> None:
    world.grant(world.devices[0], COST - 1)
    round_id = world.open_round()
    world.answer(round_id)
    world.complete(round_id)
    world.settle()
    assert world.budget(world.devices[0]).exhausted
    assert world.process(round_id).status == COMPLETED


@pytest.mark.parametrize("how", ["suspend_device", "retire_device"])
def test_a_device_that_was_suspended_as_it_was_chosen_leaves_the_round_and_reserves_nothing(
    world: Spending, how: str
) -> None:
    gone = world.devices[0]
    world.grant(gone)
    world.ask(getattr(world.village.device_registry, how), device_id=gone, reason="a drill")
    round_id = world.open_round()  # the index of devices has not heard of it
    world.settle()
    assert (world.round(round_id).left, world.figures(gone)) == ({gone}, (0, 0))


def test_an_update_of_a_device_that_was_suspended_since_is_paid_for_in_privacy(world: Spending) -> None:
    gone = world.devices[0]
    world.grant(gone)
    round_id = world.open_round()
    world.answer(round_id)
    world.ask(world.village.device_registry.suspend_device, device_id=gone, reason="a drill")
    world.complete(round_id)
    world.settle()
    assert (world.process(round_id).status, world.figures(gone)) == (COMPLETED, (0, 1))


def test_many_devices_are_handled_in_several_transactions(world: Spending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spend_privacy, "MAX_DEVICES", 1)
    for device_id in world.devices:
        world.grant(device_id)
    round_id = world.open_round()
    world.settle()
    world.aggregated(round_id)
    assert [world.figures(device_id) for device_id in world.devices] == [(0, 1)] * 3 + [(0, 0)]
    steps = [fact.topic for fact in world.facts() if fact.stream == world.process(round_id).id]
    assert steps.count("sagas.Process.StepContinued") == 6


def test_a_reservation_an_operator_has_ended_is_left_alone(world: Spending) -> None:
    world.grant(world.devices[0])
    round_id = world.open_round()
    world.settle()
    (reservation_id,) = world.budget(world.devices[0]).open
    named: dict[str, Any] = {"subject_id": world.devices[0], "purpose": PURPOSE, "reservation_id": reservation_id}
    world.ask(world.privacy.release_budget, **named)
    world.aggregated(round_id)
    assert (world.process(round_id).status, world.figures(world.devices[0])) == (COMPLETED, (0, 0))


@pytest.mark.parametrize("action", [RETRY, COMPENSATE])
def test_a_round_that_does_not_end_parks_its_process_and_an_operator_decides(world: Spending, action: str) -> None:
    world.grant(world.devices[0])
    round_id = world.open_round()
    world.stage.until_quiet()
    assert (world.process(round_id).status, world.process(round_id).reason) == (PARKED, "timed_out")
    assert world.figures(world.devices[0]) == (1, 0)
    if action == COMPENSATE:
        world.resolve(round_id, action)
        assert (world.process(round_id).status, world.figures(world.devices[0])) == (COMPENSATED, (0, 0))
        return
    world.ask(world.training.abandon_training_round, round_id=round_id, reason="a drill")
    world.resolve(round_id, action)
    assert (world.process(round_id).status, world.figures(world.devices[0])) == (COMPLETED, (0, 0))


def test_an_operator_who_retries_while_the_round_still_runs_is_asked_again(world: Spending) -> None:
    world.grant(world.devices[0])
    round_id = world.open_round()
    world.stage.until_quiet()
    world.resolve(round_id, RETRY)
    world.stage.until_quiet()
    assert (world.process(round_id).status, world.process(round_id).reason) == (PARKED, "round_not_over")
    assert world.figures(world.devices[0]) == (1, 0)
    world.ask(world.training.abandon_training_round, round_id=round_id, reason="a drill")
    world.resolve(round_id, RETRY)
    assert (world.process(round_id).status, world.figures(world.devices[0])) == (COMPLETED, (0, 0))


# Crashes and deliveries.


def held(facts: list[Fact]) -> dict[UUID, int]:
    """Open reservations by id: none is made or ended twice."""
    found: dict[UUID, int] = {}
    for fact in facts:
        match fact.event:
            case PrivacyBudget.Reserved(reservation_id=reservation_id, epsilon_micro=amount):
                assert reservation_id not in found
                found[reservation_id] = amount
            case (
                PrivacyBudget.Committed(reservation_id=reservation_id)
                | PrivacyBudget.Released(reservation_id=reservation_id)
            ):
                assert found[reservation_id]
                found[reservation_id] = 0
    return found


def begun(world: Spending, outcome: str = "completed") -> Oracle:
    """A round is selected and ends; of a budget it takes exactly what the model has."""
    world.grant(world.devices[0])
    spent = world.budget(world.devices[0]).spent
    world.stage.run()
    session_id = world.start()
    round_id = world.ask(world.training.coordinate_training_round, session_id=session_id).id
    assert round_id is not None
    if outcome == "completed":
        world.answer(round_id)
        world.complete(round_id)
    world.ask(world.training.abandon_training, session_id=session_id, reason="a drill")

    def spent_once() -> None:
        process, budget = world.process(round_id), world.budget(world.devices[0])
        if process.status == PARKED:  # all time has passed before anything was delivered
            world.resolve(round_id, RETRY)
            world.stage.until_quiet()
        assert world.process(round_id).status == COMPLETED
        budget = world.budget(world.devices[0])
        assert budget.spent - spent == (COST if outcome == "completed" else 0)
        assert set(held(world.stage.facts()).values()) == {0}

    return spent_once


def test_a_crash_before_or_after_any_write_spends_once(stored_world: Spending) -> None:
    assert stored_world.stage.crash_points(lambda: begun(stored_world), DEATHS) >= 3


outcomes = st.sampled_from(["completed", "abandoned"])


@stormy
@given(order=deliveries, outcome=outcomes)
def test_facts_in_any_order_and_number_spend_once(world: Spending, order: list[int], outcome: str) -> None:
    world.stage.storm(lambda: begun(world, outcome), order)


@stormy
@given(broken=faults, outcome=outcomes)
def test_it_is_spent_once_whatever_fails(world: Spending, broken: Faults, outcome: str) -> None:
    world.stage.strike(lambda: begun(world, outcome), broken)
