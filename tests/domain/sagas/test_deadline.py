"""A deadline: an instant that comes once, and never early."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from domain.sagas.deadline import Deadline, DeadlineNotDue, DeadlineOver
from tests.facts import assert_replays, facts_of, names_of, refuses

DUE = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN, SAGA = UUID(int=1), UUID(int=2)


def deadline() -> Deadline:
    return Deadline(token=TOKEN, saga_id=SAGA, kind="round", due_at=DUE)


def test_it_tells_the_saga_which_token_has_elapsed() -> None:
    due = deadline()
    due.elapse(DUE)
    assert facts_of(due)[1:] == [(Deadline.Elapsed, {"token": TOKEN, "saga_id": SAGA, "kind": "round"})]
    assert_replays(due)


@given(st.lists(st.integers(min_value=-10, max_value=10), max_size=20))
def test_whenever_it_is_asked_it_elapses_once_and_never_before_its_instant(seconds: list[int]) -> None:
    due = deadline()
    for offset in seconds:
        if due.elapsed:
            with refuses(DeadlineOver, due):
                due.elapse(DUE + timedelta(seconds=offset))
        elif offset < 0:
            with refuses(DeadlineNotDue, due):
                due.elapse(DUE + timedelta(seconds=offset))
        else:
            due.elapse(DUE + timedelta(seconds=offset))
    assert names_of(due).count("Elapsed") == any(offset >= 0 for offset in seconds)
    assert_replays(due)
