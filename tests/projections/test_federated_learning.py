"""The read models of federated learning, folded from a session that ran."""

from collections.abc import Iterator
from typing import Any

import pytest

from infrastructure.database import Database
from projections.federated_learning import READ_MODELS, Participations
from projections.replay import compare
from tests.training_world import TrainingWorld
from workers.projector import Projector


@pytest.fixture
def world(database_url: str, database: Database) -> Iterator[TrainingWorld]:
    world = TrainingWorld(database_url, database)
    yield world
    world.close()


def projected(world: TrainingWorld, model: Any) -> dict[Any, Any]:
    """The rows of one read model, after everything has been projected; a replay gives the same."""
    projector = Projector(world.database, READ_MODELS)
    projector.run_once()
    projector.close()
    with world.database.reader.connection() as connection:
        assert compare(connection, READ_MODELS).differences == []
        return {model.key_of(row): row for row in map(model.read, connection.execute(model.select()).fetchall())}


def test_a_session_is_read_with_its_state_its_progress_and_its_newest_model(world: TrainingWorld) -> None:
    session_id = world.start()
    world.settle()
    sessions = READ_MODELS[0]
    assert projected(world, sessions)[session_id].state == "running"
    world.answer(world.opened(session_id))
    world.complete(world.opened(session_id), "1" * 64)
    world.settle()
    row = projected(world, sessions)[session_id]
    assert (row.current_round, row.completed_rounds, row.model_hash) == (2, 1, "1" * 64)
    world.ask(world.training.pause_training, session_id=session_id)
    assert projected(world, sessions)[session_id].state == "paused"
    world.ask(world.training.resume_training, session_id=session_id)
    world.ask(world.training.abandon_training, session_id=session_id, reason="enough")
    row = projected(world, sessions)[session_id]
    assert (row.state, row.reason, row.ended_at) == ("abandoned", "enough", world.now)


def test_a_round_is_read_with_its_counts_metrics_and_duration(world: TrainingWorld) -> None:
    round_id = world.open_round()
    world.answer(round_id, devices=2)
    rejected = world.training.get_selected_participants(round_id=round_id)[0]
    world.ask(world.training.reject_update, round_id=round_id, device_id=rejected, reason="blob_not_found")
    rounds = READ_MODELS[1]
    row = projected(world, rounds)[round_id]
    assert (row.state, row.selected, row.accepted, row.rejected, row.participants) == ("open", 4, 2, 1, 0)
    for device_id in world.training.get_selected_participants(round_id=round_id)[2:]:
        world.submit(round_id, device_id)
    row = projected(world, rounds)[round_id]
    assert (row.state, row.accepted, row.dropped) == ("sealed", 4, 1)
    world.complete(round_id, "2" * 64)
    row = projected(world, rounds)[round_id]
    assert (row.state, row.participants, row.model_hash, row.metrics) == (
        "completed", 3, "2" * 64, {"accuracy": 0.5},
    )  # fmt: skip


def test_each_participant_is_read_with_what_it_did_and_past_rounds_are_counted(world: TrainingWorld) -> None:
    round_id = world.open_round()
    one, two, three, four = world.training.get_selected_participants(round_id=round_id)
    for device_id in (one, two, three):
        world.submit(round_id, device_id)
    world.ask(world.training.reject_update, round_id=round_id, device_id=one, reason="blob_not_found")
    world.complete(round_id)
    rows = projected(world, READ_MODELS[2])
    assert {device: rows[round_id, device].state for device in (one, two, three, four)} == {
        one: "rejected", two: "aggregated", three: "aggregated", four: "dropped",
    }  # fmt: skip
    assert rows[round_id, two].examples == 10 + two.int
    assert Participations(world.database).counts([one, two, four]) == {two: 1}
