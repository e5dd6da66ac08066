"""Cursors move by compare-and-set in the transaction of what moved them, or not at all."""

from uuid import uuid4

import pytest

from domain.kernel import CursorMove
from domain.kernel.errors import CursorMoved
from infrastructure.database import Database
from tests.ledger import Ledger
from tests.running import asked, in_threads, names, opened


def position(database: Database, name: str = "reader", partition: int = 0) -> int | None:
    with database.reader.connection() as connection:
        row = connection.execute(
            "SELECT position FROM engine.cursors WHERE name = %s AND partition = %s", (name, partition)
        ).fetchone()
    return None if row is None else row[0]


def step(ledger: Ledger, move: CursorMove) -> int:
    """One command and a cursor's move in one transaction; answers the position."""
    with asked():
        return ledger.log.transact(lambda: ledger.open(account_id=uuid4()), cursors=[move]).position


def test_a_cursor_moves_with_the_command_that_moves_it(database: Database, ledger: Ledger) -> None:
    step(ledger, CursorMove("reader", 0, 0, 7))
    step(ledger, CursorMove("reader", 0, 7, 9))
    assert position(database) == 9


def test_a_cursor_may_move_alone(database: Database, database_url: str, ledger: Ledger) -> None:
    with asked():
        ledger.log.transact(lambda: None, cursors=[CursorMove("reader", 0, 0, 5)])
    assert (position(database), names(database_url)) == (5, [])


def test_a_cursor_that_has_moved_drops_the_facts_that_came_with_it(
    database: Database, database_url: str, ledger: Ledger
) -> None:
    step(ledger, CursorMove("reader", 0, 0, 7))
    for move in (CursorMove("reader", 0, 0, 8), CursorMove("reader", 0, 6, 8), CursorMove("reader", 0, 8, 9)):
        with pytest.raises(CursorMoved):
            step(ledger, move)
    assert (position(database), names(database_url)) == (7, ["Opened"])


def test_when_one_of_several_cursors_has_moved_none_moves(database: Database, ledger: Ledger) -> None:
    step(ledger, CursorMove("reader", 0, 0, 7))
    with asked(), pytest.raises(CursorMoved):
        ledger.log.transact(lambda: None, cursors=[CursorMove("other", 0, 0, 3), CursorMove("reader", 0, 0, 8)])
    assert (position(database, "other"), position(database)) == (None, 7)


def test_the_partitions_of_a_cursor_move_independently(database: Database, ledger: Ledger) -> None:
    for partition in range(3):
        step(ledger, CursorMove("reader", partition, 0, 10 + partition))
    assert [position(database, partition=partition) for partition in range(3)] == [10, 11, 12]


def test_a_refusal_moves_no_cursor(database: Database, ledger: Ledger) -> None:
    stream = opened(ledger)
    with asked(), pytest.raises(Exception, match="asked"):
        ledger.log.transact(
            lambda: ledger.withdraw(account_id=stream, grains=1), cursors=[CursorMove("reader", 0, 0, 1)]
        )
    assert position(database) is None


def test_a_conflict_moves_no_cursor(database: Database, ledger: Ledger, elsewhere: Ledger) -> None:
    stream = opened(ledger)
    with asked(), pytest.raises(Exception, match="exists"):
        elsewhere.log.transact(lambda: elsewhere.open(account_id=stream), cursors=[CursorMove("reader", 0, 0, 1)])
    assert position(database) is None


@pytest.mark.parametrize("start", [0, 5], ids=["a new cursor", "one that stands somewhere"])
def test_of_many_racing_movers_one_wins_and_only_its_facts_stand(
    database: Database, database_url: str, ledger: Ledger, elsewhere: Ledger, start: int
) -> None:
    if start:
        step(ledger, CursorMove("reader", 0, 0, start))
    before = len(names(database_url))
    raised = in_threads(
        8, lambda index: step(ledger if index % 2 else elsewhere, CursorMove("reader", 0, start, 100 + index))
    )
    assert [type(error) for error in raised] == [CursorMoved] * 7
    assert len(names(database_url)) == before + 1
    assert position(database) in range(100, 108)


def test_consumers_that_race_over_a_whole_log_handle_every_position_once(
    database_url: str, ledger: Ledger, elsewhere: Ledger
) -> None:
    handled: list[int] = []

    def consume(index: int) -> None:
        at = 0
        while at < 40:
            try:
                step(ledger if index % 2 else elsewhere, CursorMove("reader", 0, at, at + 1))
                handled.append(at)
            except CursorMoved:
                pass
            at += 1

    assert in_threads(4, consume) == []
    assert sorted(handled) == list(range(40))
    assert len(names(database_url)) == 40
