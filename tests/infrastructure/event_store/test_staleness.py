"""A process may hold stale copies; no answer may depend on one."""

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.kernel import AlreadyExists, Conflict, EventLog, Receipt, Refusal, deciding
from domain.kernel.errors import LogUnavailable
from domain.kernel.write import Write, Written
from infrastructure.event_store.recorder import PostgresRecorder
from tests.ledger import Account, Ledger, Overdrawn
from tests.running import asked, deposit, in_threads, names, opened, records, withdraw


@pytest.fixture
def recorder(log: EventLog) -> PostgresRecorder:
    assert isinstance(log.recorder, PostgresRecorder)
    return log.recorder


def test_a_refusal_decided_on_a_stale_copy_is_decided_again(ledger: Ledger, elsewhere: Ledger) -> None:
    stream = opened(ledger, balance=5)
    withdraw(ledger, stream, 5)
    deposit(elsewhere, stream, 3)
    withdraw(ledger, stream, 3)
    assert ledger.log.load(Account, stream).balance == 0


def test_a_fault_that_a_stale_copy_led_to_is_decided_again(ledger: Ledger, elsewhere: Ledger) -> None:
    stream = opened(ledger, balance=1)
    withdraw(ledger, stream, 1)
    deposit(elsewhere, stream, 1)

    def decide() -> None:
        balance = ledger.log.load(Account, stream).balance
        seen.append(balance)
        assert balance, "the deposit is in the log"

    seen: list[int] = []
    with asked():
        ledger.log.transact(decide)
    assert seen == [0, 1]


def test_a_refusal_that_still_holds_is_answered_after_one_look(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = opened(ledger, balance=5)
    withdraw(ledger, stream, 1)
    decided = 0
    plain = Account.withdraw

    def counted(self: Account, grains: int) -> None:
        nonlocal decided
        decided += 1
        plain(self, grains)

    monkeypatch.setattr(Account, "withdraw", counted)
    with asked(), pytest.raises(Overdrawn):
        ledger.withdraw(account_id=stream, grains=5)
    assert decided == 1


def test_an_exact_append_from_a_stale_copy_is_decided_again(ledger: Ledger, elsewhere: Ledger) -> None:
    stream = opened(ledger, balance=5)
    withdraw(ledger, stream, 1)
    withdraw(elsewhere, stream, 1)
    withdraw(ledger, stream, 3)
    assert ledger.log.load(Account, stream).balance == 0


def test_an_answer_knows_the_facts_that_commute_of_other_processes(ledger: Ledger, elsewhere: Ledger) -> None:
    stream = opened(ledger, balance=5)
    withdraw(ledger, stream, 1)
    deposit(elsewhere, stream, 2)
    with asked():
        assert ledger.withdraw(account_id=stream, grains=3).extra == {"left": 3}


def test_a_stale_copy_never_lets_a_stream_be_overdrawn(ledger: Ledger, elsewhere: Ledger) -> None:
    stream = opened(ledger, balance=5)
    withdraw(ledger, stream, 1)
    withdraw(elsewhere, stream, 4)
    with asked(), pytest.raises(Overdrawn):
        ledger.withdraw(account_id=stream, grains=1)


def watched(log: EventLog, watched_id: UUID, account_id: UUID) -> Callable[[], Receipt]:
    """A command that pays into one account only while another one, which it only reads, holds something."""

    def decide() -> Receipt:
        if log.load(Account, watched_id).balance == 0:
            raise Overdrawn("nothing there")
        return log.record(Account.fact(Account.Deposited, account_id, grains=1))

    return lambda: log.execute("watched", decide)


def test_a_command_that_only_reads_a_stream_is_not_decided_on_a_stale_copy_of_it(
    database_url: str, ledger: Ledger, elsewhere: Ledger
) -> None:
    guard, account_id = opened(ledger, balance=5), opened(ledger)
    command = watched(ledger.log, guard, account_id)
    with asked():
        command()
    withdraw(elsewhere, guard, 5)
    with asked(), pytest.raises(Overdrawn):
        command()
    assert names(database_url)[-1] == "Withdrawn"


def test_a_command_that_found_no_stream_does_not_stand_when_one_was_opened_meanwhile(
    ledger: Ledger, elsewhere: Ledger
) -> None:
    absent, account_id, found = uuid4(), opened(ledger), []

    # The other log works in a thread of its own, as in another process.
    def decide() -> Receipt:
        found.append(ledger.log.find(Account, absent) is not None)
        if not found[-1]:
            assert in_threads(1, lambda _: elsewhere_opens()) == []
        return ledger.log.record(Account.fact(Account.Deposited, account_id, grains=1))

    def elsewhere_opens() -> None:
        with asked():
            elsewhere.open(account_id=absent)

    with asked():
        ledger.log.execute("absent", decide)
    assert found == [False, True]
    assert ledger.log.load(Account, account_id).balance == 1


def test_a_refusal_decided_on_two_reads_between_which_the_log_moved_is_decided_again(
    ledger: Ledger, elsewhere: Ledger
) -> None:
    left, right = opened(elsewhere, balance=1), opened(elsewhere)
    tries: list[int] = []

    def move() -> None:
        with asked():
            elsewhere.log.transact(
                lambda: (
                    elsewhere.withdraw(account_id=left, grains=1),
                    elsewhere.deposit_to_open(account_id=right, grains=1),
                )
            )

    def decide() -> Receipt:
        on_the_right = ledger.log.load(Account, right).balance
        if not tries:
            assert in_threads(1, lambda _: move()) == []
        tries.append(on_the_right)
        if on_the_right + ledger.log.load(Account, left).balance == 0:
            raise Overdrawn("the one grain is nowhere")
        return Receipt(0)

    with asked():
        ledger.log.execute("sum", decide)
    assert tries == [0, 1]


def test_a_refusal_of_a_stale_copy_that_a_unit_swallows_does_not_decide_the_unit(
    ledger: Ledger, elsewhere: Ledger
) -> None:
    stream, told = opened(ledger, balance=5), opened(ledger)
    withdraw(ledger, stream, 5)
    deposit(elsewhere, stream, 3)

    def step() -> None:
        try:
            ledger.withdraw(account_id=stream, grains=3)
        except Refusal:
            ledger.deposit_to_open(account_id=told, grains=1)

    with asked():
        ledger.log.transact(step)
    assert ledger.log.load(Account, stream).balance == 0
    assert ledger.log.load(Account, told).balance == 0


def test_a_stream_opened_elsewhere_is_found_although_it_was_not_there_before(ledger: Ledger, elsewhere: Ledger) -> None:
    stream = uuid4()
    assert ledger.log.find(Account, stream) is None
    with asked():
        elsewhere.open(account_id=stream)
    with asked(), pytest.raises(AlreadyExists):
        ledger.open(account_id=stream)
    deposit(ledger, stream, 1)


def test_what_was_refused_or_failed_leaves_no_trace_in_the_cache(ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)

    def fail() -> Receipt:
        ledger.log.load(Account, stream).withdraw(5)
        raise RuntimeError("after deciding")

    with asked(), pytest.raises(RuntimeError):
        ledger.log.execute("fail", fail)
    withdraw(ledger, stream, 5)


def test_a_conflict_is_told_at_last_when_the_stream_never_rests(
    ledger: Ledger, elsewhere: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "MAX_CONFLICTS", 3)
    stream, tries = opened(ledger, balance=100), []

    def decide() -> Receipt:
        held = ledger.log.load(Account, stream)
        assert in_threads(1, lambda _: withdraw(elsewhere, stream, 1)) == []
        held.withdraw(1)
        tries.append(held.version)
        return ledger.log.record(held)

    with asked(), pytest.raises(Conflict):
        ledger.log.execute("restless", decide)
    assert len(tries) == 3


def test_a_write_of_unknown_fate_is_not_sent_again_by_itself(
    database_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = opened(ledger, balance=5)
    withdraw(ledger, stream, 1)
    write = PostgresRecorder.write

    def write_and_lose_the_answer(self: PostgresRecorder, given: Write) -> Written:
        write(self, given)
        raise LogUnavailable("lost")

    monkeypatch.setattr(PostgresRecorder, "write", write_and_lose_the_answer)

    def decide() -> Receipt:
        ledger.log.load(Account, stream)
        return ledger.log.record(Account.fact(Account.Deposited, stream, grains=1))

    with asked(), pytest.raises(LogUnavailable):
        ledger.log.execute("pay", decide)
    assert len(records(database_url)) == 4


def test_the_cache_keeps_no_more_than_its_capacity_and_forgetting_changes_no_answer(ledger: Ledger) -> None:
    ledger.log.cache._capacity = 2
    streams = [opened(ledger, balance=5) for _ in range(4)]
    for stream in streams:
        withdraw(ledger, stream, 5)
    assert len(ledger.log.cache) == 2
    for stream in streams:
        with asked(), pytest.raises(Overdrawn):
            ledger.withdraw(account_id=stream, grains=1)


def reads_of(recorder: PostgresRecorder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement this log reads with, as it does."""
    asked_for: list[str] = []
    plain = recorder._read

    def watched(statement: str, *parameters: Any) -> Any:
        asked_for.append(statement)
        return plain(statement, *parameters)

    monkeypatch.setattr(recorder, "_read", watched)
    return asked_for


def test_a_copy_is_moved_on_by_the_facts_its_own_process_records_unseen(
    ledger: Ledger, recorder: PostgresRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = opened(ledger, balance=5)
    withdraw(ledger, stream, 5)
    read = reads_of(recorder, monkeypatch)
    deposit(ledger, stream, 3)
    deposit(ledger, stream, 4)
    withdraw(ledger, stream, 7)
    assert read == []
    assert ledger.log.load(Account, stream).balance == 0


def test_a_copy_that_lacks_a_fact_of_another_process_is_not_moved_on(ledger: Ledger, elsewhere: Ledger) -> None:
    stream = opened(ledger, balance=5)
    withdraw(ledger, stream, 5)
    deposit(elsewhere, stream, 3)
    deposit(ledger, stream, 4)
    withdraw(ledger, stream, 7)
    assert ledger.log.load(Account, stream).balance == 0


def test_a_stream_taken_for_new_is_not_read_and_one_that_exists_is_found_before_anything_is_answered(
    ledger: Ledger, elsewhere: Ledger, recorder: PostgresRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def open_or_refuse(stream: UUID, refuse: bool) -> Receipt:
        found = ledger.log.find(Account, stream, new=True)
        seen.append(found is not None)
        if found is None and refuse:
            raise Overdrawn("of an account that is not there")
        return ledger.log.record(found or Account(account_id=stream, owner="me"))

    read = reads_of(recorder, monkeypatch)
    with asked():
        ledger.log.execute("open", lambda: open_or_refuse(uuid4(), False))
    assert (read, seen) == ([], [False])
    for refuse in (False, True):
        seen.clear()
        stream = opened(elsewhere)
        with asked():
            ledger.log.execute("open", partial(open_or_refuse, stream, refuse))
        assert seen == [False, True]
    with asked(), pytest.raises(Overdrawn):
        ledger.log.execute("open", lambda: open_or_refuse(uuid4(), True))
