"""Many commands that want the same stream at its exact version: all are decided, none starves."""

import threading
from concurrent.futures import ThreadPoolExecutor

from domain.kernel import Receipt
from tests.ledger import Account, Ledger
from tests.running import asked, assert_sound, in_threads, names, opened, records

CALLERS = 16


def test_commands_that_lost_a_stream_are_each_decided_once_more_when_it_is_their_turn(
    ledger: Ledger, database_url: str
) -> None:
    stream, together, decided = opened(ledger, balance=CALLERS), threading.Barrier(CALLERS), []

    def pay(_: int) -> None:
        tries: list[int] = []

        def decide() -> Receipt:
            account = ledger.log.load(Account, stream)
            if not tries:
                together.wait(30)
            tries.append(account.version)
            account.withdraw(1)
            return ledger.log.record(account)

        with asked():
            ledger.log.execute("pay", decide)
        decided.append(len(tries))

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(pay, range(CALLERS)))
    assert sorted(decided) == [1] + [2] * (CALLERS - 1)
    assert ledger.log.load(Account, stream).balance == 0
    assert_sound(records(database_url))


def test_commands_of_two_processes_on_one_stream_are_all_decided(
    ledger: Ledger, elsewhere: Ledger, database_url: str
) -> None:
    stream = opened(ledger, balance=120)

    def pay(number: int) -> None:
        with asked():
            (ledger, elsewhere)[number % 2].withdraw(account_id=stream, grains=1)

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(pay, range(120)))
    assert names(database_url).count("Withdrawn") == 120
    assert_sound(records(database_url))


def test_facts_that_commute_on_one_hot_stream_are_all_recorded_and_none_is_decided_twice(
    ledger: Ledger, elsewhere: Ledger, database_url: str
) -> None:
    stream, decided = opened(ledger), []

    def deposits(caller: int) -> None:
        log = (ledger, elsewhere)[caller % 2].log

        def decide() -> Receipt:
            decided.append(caller)
            return log.record(Account.fact(Account.Deposited, stream, grains=1))

        for _ in range(10):
            with asked():
                log.execute("deposit", decide)

    assert in_threads(32, deposits) == []
    assert len(decided) == 320
    assert ledger.log.load(Account, stream).balance == 320
    assert_sound(records(database_url))
