"""The saga that coordinates training, on a real log with a clock one can turn."""

import random
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import example, given

from domain.federated_learning.round import SEALED, RoundNotSealed
from domain.federated_learning.session import ABANDONED, COMPLETED, PAUSED, RUNNING, SessionRoster, TrainingSession
from domain.kernel import Refusal
from domain.sagas import coordinate_training
from domain.sagas.coordinate_training import AGGREGATION_MS, LAST_PAUSE_MS, MAX_ATTEMPTS, MAX_LOST_ROUNDS, pause_ms
from infrastructure.database import Database
from tests.sagas import DEATHS, Oracle, deliveries, stormy
from tests.training_world import MemoryTrainingWorld, Trainings, TrainingWorld


@pytest.fixture
def world() -> Iterator[Trainings]:
    world = MemoryTrainingWorld()
    yield world
    world.close()


@pytest.fixture
def stored_world(database_url: str, database: Database) -> Iterator[Trainings]:
    world = TrainingWorld(database_url, database)
    yield world
    world.close()


def reason_of(world: Trainings) -> str:
    """Why the one session that was given up was given up."""
    (abandoned,) = [fact for fact in world.facts() if fact.topic == "federated_learning.TrainingSession.Abandoned"]
    return str(abandoned.event.reason)


def test_a_session_runs_round_after_round_until_it_is_complete(world: Trainings) -> None:
    session_id = world.start(rounds=3)
    models = ["1" * 64, "2" * 64, "3" * 64]
    for model_hash in models:
        world.settle()
        round_id = world.opened(session_id)
        world.answer(round_id)
        world.complete(round_id, model_hash)
    world.settle()
    session = world.session(session_id)
    assert (session.state_name, session.model_hash, session.rounds_begun) == (COMPLETED, models[-1], 3)


def test_each_round_starts_from_the_model_of_the_one_before(world: Trainings) -> None:
    session_id = world.start()
    world.settle()
    first = world.opened(session_id)
    world.answer(first)
    world.complete(first, "1" * 64)
    world.settle()
    assert world.round(world.opened(session_id)).model_hash == "1" * 64


def test_the_deadline_seals_a_round_with_enough_updates(world: Trainings) -> None:
    session_id = world.start()
    world.settle()
    round_id = world.opened(session_id)
    world.answer(round_id, devices=2)
    world.pass_time(minutes=59)
    assert world.round(round_id).state_name != SEALED
    world.pass_time(minutes=2)
    assert world.round(round_id).state_name == SEALED


def test_a_sealed_round_that_nobody_aggregates_in_time_is_lost_by_name_and_the_next_one_opens(world: Trainings) -> None:
    session_id = world.start()
    world.settle()
    stuck = world.opened(session_id)
    world.answer(stuck)
    world.pass_time(minutes=61)
    world.pass_time(milliseconds=AGGREGATION_MS - 60_000)
    assert world.round(stuck).state_name == SEALED
    world.pass_time(minutes=2)
    assert (world.round(stuck).state_name, world.round(stuck).reason) == (ABANDONED, "aggregation_timed_out")
    assert world.opened(session_id) != stuck
    with pytest.raises(RoundNotSealed):
        world.complete(stuck)


def test_a_round_that_is_aggregated_between_its_deadline_and_the_last_one_stands(world: Trainings) -> None:
    session_id = world.start()
    world.settle()
    first = world.opened(session_id)
    world.answer(first, devices=2)
    world.pass_time(hours=2)
    world.complete(first)
    world.settle()
    second = world.opened(session_id)
    world.pass_time(minutes=30)
    world.now += timedelta(milliseconds=AGGREGATION_MS)
    world.settle()
    assert world.round(first).state_name == COMPLETED
    assert world.session(session_id).state_name == RUNNING
    assert world.round(second).reason == "too_few_updates"


def test_a_round_without_enough_updates_is_lost_and_the_next_one_opens(world: Trainings) -> None:
    session_id = world.start(rounds=1)
    world.settle()
    lost = world.opened(session_id)
    world.answer(lost, devices=1)
    world.pass_time(hours=2)
    assert world.round(lost).state_name == ABANDONED
    assert world.opened(session_id) != lost
    world.answer(world.opened(session_id))
    world.complete(world.opened(session_id))
    world.settle()
    assert world.session(session_id).state_name == COMPLETED


def test_a_session_that_loses_round_after_round_is_given_up(world: Trainings) -> None:
    session_id = world.start()
    world.settle()
    for _ in range(MAX_LOST_ROUNDS):
        assert world.session(session_id).state_name == RUNNING
        world.pass_time(hours=2)
    session = world.session(session_id)
    assert (session.state_name, session.rounds_begun) == (ABANDONED, MAX_LOST_ROUNDS)
    assert reason_of(world) == "rounds_lost"


def test_a_session_waits_for_devices_and_goes_on_when_they_come(world: Trainings) -> None:
    devices, world.directory.device_ids = world.directory.device_ids, []
    session_id = world.start()
    world.settle()
    assert world.session(session_id).open_round is None
    world.directory.device_ids = devices
    world.pass_time(seconds=2)
    assert world.session(session_id).open_round is not None


def test_a_session_for_which_no_devices_come_is_given_up(world: Trainings) -> None:
    world.directory.device_ids = []
    session_id = world.start()
    world.settle()
    world.stage.until_quiet()
    assert world.session(session_id).state_name == ABANDONED
    assert reason_of(world) == "too_few_participants"


def test_a_paused_session_lets_its_round_end_and_opens_the_next_when_resumed(world: Trainings) -> None:
    session_id = world.start()
    world.settle()
    round_id = world.opened(session_id)
    world.ask(world.training.pause_training, session_id=session_id)
    world.answer(round_id)
    world.complete(round_id)
    world.pass_time(hours=5)
    session = world.session(session_id)
    assert (session.state_name, session.open_round, session.rounds_begun) == (PAUSED, None, 1)
    world.ask(world.training.resume_training, session_id=session_id)
    world.settle()
    assert world.session(session_id).open_round is not None


def test_an_abandoned_session_ends_its_round_and_makes_room_for_another(world: Trainings) -> None:
    sessions = [world.start() for _ in range(3)]
    world.settle()
    round_id = world.opened(sessions[0])
    world.ask(world.training.abandon_training, session_id=sessions[0], reason="not wanted any more")
    world.settle()
    assert world.round(round_id).state_name == ABANDONED
    assert world.session(sessions[0]).rounds_begun == 1
    world.start()


def test_delivering_every_fact_again_changes_nothing(world: Trainings) -> None:
    session_id = world.start()
    world.settle()
    first = world.opened(session_id)
    world.answer(first)
    world.complete(first)
    world.settle()
    second = world.opened(session_id)
    before = world.log.head()
    world.stage.begin_again()
    world.settle()
    assert not [f for f in world.facts() if f.position > before and f.topic.startswith("federated_learning")]
    world.answer(second, devices=2)
    world.pass_time(hours=2)
    assert world.round(second).state_name == SEALED


class Fate:
    """Whatever may happen to a session, by chance."""

    def __init__(self, world: Trainings, session_id: UUID, seed: int) -> None:
        self.world, self.session_id, self.chance = world, session_id, random.Random(seed)
        self.devices = list(world.directory.device_ids)

    def strike(self) -> None:
        """One thing happens, and what reacts to it has reacted."""
        usual = [self.answer, self.answer, self.complete, self.wait]
        self.chance.choice([*usual, self.change, self.move, self.redeliver])()
        self.world.settle()

    def answer(self) -> None:
        """A device sends its update, in time or not."""
        if (round_id := self.world.session(self.session_id).open_round) is not None:
            device_id = self.chance.choice(self.world.training.get_selected_participants(round_id=round_id))
            with suppress(Refusal):
                self.world.submit(round_id, device_id)

    def complete(self) -> None:
        """The aggregator has done its work."""
        round_id = self.world.session(self.session_id).open_round
        if round_id is not None and self.world.round(round_id).state_name == SEALED:
            self.world.complete(round_id)

    def wait(self) -> None:
        """Time passes."""
        self.world.now += timedelta(seconds=self.chance.choice([1, 60, 4_000]))

    def change(self) -> None:
        """The owner pauses or resumes."""
        training = self.world.training
        with suppress(Refusal):
            command = self.chance.choice([training.pause_training, training.resume_training])
            self.world.ask(command, session_id=self.session_id)

    def move(self) -> None:
        """Devices come or go."""
        self.world.directory.device_ids = self.devices[: self.chance.choice([0, 4])]

    def redeliver(self) -> None:
        """The saga runner has lost its place."""
        self.world.stage.begin_again()

    def relent(self) -> None:
        """Nothing bad happens any more, until the session has ended."""
        self.world.directory.device_ids = self.devices
        for _ in range(30):
            session = self.world.session(self.session_id)
            if session.ended:
                return
            if session.state_name == PAUSED:
                self.world.ask(self.world.training.resume_training, session_id=self.session_id)
            for _ in self.devices:
                self.answer()
            self.complete()
            self.world.pass_time(seconds=LAST_PAUSE_MS / 1_000)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_a_session_comes_to_an_end_and_its_rounds_never_overlap(world: Trainings, seed: int) -> None:
    session_id = world.start(rounds=3)
    fate = Fate(world, session_id, seed)
    for _ in range(25):
        fate.strike()
    fate.relent()
    session = world.session(session_id)
    assert session.ended
    assert_rounds_never_overlap(world, session_id)
    assert session.state_name == ABANDONED or session.rounds_completed == 3
    assert world.log.load(SessionRoster, SessionRoster.create_id()).going == set()


def test_a_crash_at_any_write_neither_loses_a_session_nor_opens_a_round_twice(
    stored_world: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinate_training, "MAX_LOST_ROUNDS", 1)

    def a_round_nobody_answers() -> Oracle:
        session_id = stored_world.start()

        def oracle() -> None:
            session = stored_world.session(session_id)
            assert (session.state_name, session.rounds_begun) == (ABANDONED, 1)
            assert_rounds_never_overlap(stored_world, session_id)

        return oracle

    assert stored_world.stage.crash_points(a_round_nobody_answers, DEATHS) >= 5


@stormy
@example(facts=[1, 92, 0, 3, 1, 17])  # the session's start again, before its first round is known to be lost
@given(facts=deliveries)
def test_facts_that_come_doubled_late_and_out_of_order_lose_three_rounds_one_after_the_other(
    world: Trainings, facts: list[int]
) -> None:
    session_id = world.start()
    world.stage.deliver_anyhow(facts)
    assert world.session(session_id).rounds_begun == MAX_LOST_ROUNDS
    assert_rounds_never_overlap(world, session_id)


def assert_rounds_never_overlap(world: Trainings, session_id: UUID) -> None:
    """Each round of a session began once, after those before it had ended."""
    began, ended = set[int](), set[int]()
    for event in [fact.event for fact in world.facts() if fact.stream == session_id]:
        match event:
            case TrainingSession.RoundBegun(number=number):
                assert began == ended
                assert number not in began
                began.add(number)
            case TrainingSession.ModelAdvanced(number=number) | TrainingSession.RoundLost(number=number):
                ended.add(number)


def test_the_pauses_between_attempts_grow_and_are_bounded() -> None:
    pauses = [pause_ms(UUID(int=1), attempt) for attempt in range(1, MAX_ATTEMPTS + 1)]
    assert all(later > earlier / 2 for earlier, later in pairwise(pauses))
    assert max(pauses) <= LAST_PAUSE_MS
    assert 5 * 60_000 < sum(pauses) < 20 * 60_000
