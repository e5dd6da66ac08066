"""How sagas stand, from their facts alone."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from domain.kernel import Fact
from domain.sagas.process import Process
from domain.sagas.reward_training import RewardTraining
from projections.sagas import SagaRow, Sagas

AT = datetime(2026, 1, 1, tzinfo=UTC)
SAGA = UUID(int=1)


def told(*events: Any) -> SagaRow:
    row: SagaRow | None = None
    for position, event in enumerate(events, start=1):
        ids = UUID(int=position).bytes * 2 + SAGA.bytes
        fact = Fact(position, SAGA, position, type(event).TOPIC, event, ids, "saga:test", AT)
        row = Sagas().evolve(row, fact, SAGA)
    assert row is not None
    return row


def began() -> Any:
    return Process.fact(
        Process.Began, SAGA, process_id=SAGA, plan="sale", subject={}, steps=["a"], cause_event_id=SAGA, due_at=AT
    )


def fact(kind: Any, **fields: Any) -> Any:
    return Process.fact(kind, SAGA, plan="sale", **fields)


def test_a_process_is_called_by_its_plan_and_runs_from_its_first_fact() -> None:
    row = told(began())
    assert (row.kind, row.state, row.step, row.steps) == ("sale", "running", "Began", 1)


def test_a_completed_process_is_completed() -> None:
    row = told(began(), fact(Process.StepDone, step=0, name="a"), fact(Process.Completed))
    assert (row.state, row.step, row.steps, row.position) == ("completed", "Completed", 3, 3)


def test_a_parked_process_says_why_and_an_operator_s_retry_lets_it_run() -> None:
    parked = (began(), fact(Process.Parked, reason="seat_taken"))
    assert (told(*parked).state, told(*parked).reason) == ("parked", "seat_taken")
    resolved = told(*parked, fact(Process.Resolved, action="retry", reason="seats were added"))
    assert (resolved.state, resolved.reason) == ("running", "seats were added")


def test_a_compensating_process_stays_so_until_all_is_undone() -> None:
    begun = (began(), fact(Process.CompensationBegan, reason="x"), fact(Process.StepUndone, step=0, name="a"))
    assert told(*begun).state == "compensating"
    assert told(*begun, fact(Process.Compensated, reason="x")).state == "compensated"


def test_a_process_that_was_parked_in_compensating_and_is_retried_compensates_with_its_next_step() -> None:
    parked = (began(), fact(Process.CompensationBegan, reason="x"), fact(Process.Parked, reason="closed"))
    retried = (*parked, fact(Process.Resolved, action="retry", reason="it is open"))
    assert told(*retried, fact(Process.StepUndone, step=1, name="b")).state == "compensating"


def test_other_sagas_are_called_by_their_class() -> None:
    started = RewardTraining.fact(
        RewardTraining.Started, SAGA, saga_id=SAGA, round_id=SAGA, quality_rule="q", cause_event_id=SAGA
    )
    assert told(started).kind == "reward_training"
