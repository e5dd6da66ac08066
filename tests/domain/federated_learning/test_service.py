"""The commands of federated learning on a real log: concurrent devices, and refusals that record nothing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.federated_learning.policy import Limits, RoundPolicy
from domain.federated_learning.round import SEALED, RoundUnknown
from domain.federated_learning.selection import TooFewParticipants
from domain.federated_learning.service import FederatedLearningService
from domain.federated_learning.session import RoundAlreadyOpen, SessionNotRunning, TooManySessions
from domain.federated_learning.update import UpdateAlreadySubmitted, UpdateLate
from domain.kernel import Refusal, new_scope, within
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from tests.training import arrays, blob_of
from tests.training_world import TrainingWorld


@pytest.fixture
def world(database_url: str, database: Database) -> Iterator[TrainingWorld]:
    world = TrainingWorld(database_url, database, devices=20)
    yield world
    world.close()


def refused(world: TrainingWorld, refusal: type[Refusal], command: Callable[..., Any], **arguments: Any) -> None:
    """The command is refused by this rule and the log does not grow."""
    head = world.log.head()
    with pytest.raises(refusal) as raised:
        world.ask(command, **arguments)
    assert raised.type is refusal
    assert world.log.head() == head


def test_twenty_devices_that_answer_at_once_through_two_processes_all_count_and_seal_once(world: TrainingWorld) -> None:
    world.training.limits = Limits()
    policy = RoundPolicy(min_participants=3, max_participants=20, goal=20)
    round_id = world.open_round(round_policy=policy)
    other_log = open_event_log(world.database.url, clock=lambda: world.now)
    services = [world.training, FederatedLearningService(other_log, world.shelf)]
    devices = world.training.get_selected_participants(round_id=round_id)
    submissions = [world.submission(round_id, device_id) for device_id in devices]

    def submit(number: int) -> None:
        with within(new_scope("test", now=world.now)):
            services[number % 2].submit_update(**submissions[number])

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(submit, range(20)))
    other_log.close()
    names = [fact.topic.rpartition(".")[2] for fact in world.facts() if fact.stream == round_id]
    assert names.count("UpdateAccepted") == 20
    assert names.count("Sealed") == 1
    assert names[-1] == "Sealed"
    assert world.round(round_id).state_name == SEALED
    assert len(world.round(round_id).survivors) == 20


def test_the_same_update_sent_by_many_threads_counts_once(world: TrainingWorld) -> None:
    round_id = world.open_round()
    device_id = world.training.get_selected_participants(round_id=round_id)[0]
    submission = world.submission(round_id, device_id)

    def submit(_: int) -> str:
        try:
            with within(new_scope("test", now=world.now)):
                world.training.submit_update(**submission)
        except UpdateAlreadySubmitted:
            return "refused"
        return "accepted"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(submit, range(8))) == ["accepted"] + ["refused"] * 7


def test_a_refused_command_records_nothing(world: TrainingWorld) -> None:
    training = world.training
    round_id = world.open_round()
    session_id = world.round(round_id).session_id
    refused(world, RoundAlreadyOpen, training.coordinate_training_round, session_id=session_id)
    device_id = training.get_selected_participants(round_id=round_id)[0]
    submission = world.submission(round_id, device_id)
    refused(world, RoundUnknown, training.submit_update, **submission | {"round_id": uuid4()})
    world.now = world.round(round_id).deadline_at
    refused(world, UpdateLate, training.submit_update, **submission)
    other = world.start()
    world.directory.device_ids = [UUID(int=1)]
    refused(world, TooFewParticipants, training.coordinate_training_round, session_id=other)
    world.ask(training.pause_training, session_id=other)
    refused(world, SessionNotRunning, training.coordinate_training_round, session_id=other)


def test_the_bound_on_sessions_holds_when_many_start_at_once(world: TrainingWorld) -> None:
    base = world.shelf.put(blob_of(arrays(seed=99)))

    def start(_: int) -> bool:
        try:
            world.start(base_model_hash=base)
        except TooManySessions:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(start, range(8))) == 3
