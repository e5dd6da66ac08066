"""Recording and loading: exact and ANY versions, openers, refusals, and what the log then holds."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from domain.kernel import Aggregate, AggregateNotFound, AlreadyExists, Conflict, Created, EventLog, Opener, event
from domain.kernel.errors import CommandTooLarge
from domain.kernel.ids import event_id
from domain.kernel.write import MAX_EVENTS_PER_COMMAND
from infrastructure.event_store import open_event_log
from tests.infrastructure.event_store.test_flush import write
from tests.ledger import Account, Ledger, Overdrawn
from tests.running import asked, assert_sound, deposit, in_threads, names, opened, records, withdraw

EARLY, LATE = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)


class Other(Aggregate, context="recording_tests"):
    class Made(Created):
        other_id: UUID

    @event(Made)
    def __init__(self, other_id: UUID) -> None: ...

    @staticmethod
    def create_id(other_id: UUID) -> UUID:
        return other_id


def fact(stream: UUID, grains: int = 1) -> Any:
    return Account.fact(Account.Deposited, stream, grains=grains)


def opener(stream: UUID) -> Opener:
    return Opener(Account.fact(Account.Opened, stream, account_id=stream, owner="opener"))


def test_what_was_recorded_is_loaded_and_found(log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    loaded = log.load(Account, stream)
    assert (loaded.balance, loaded.version, loaded.pending_events) == (5, 2, [])
    assert log.find(Account, stream) == loaded


def test_the_answer_names_the_position_the_id_and_what_else_the_command_tells(ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    with asked():
        receipt = ledger.withdraw(account_id=stream, grains=2)
    assert (receipt.position, receipt.id, receipt.extra) == (3, stream, {"left": 3})
    assert receipt.answer() == {"position": 3, "id": str(stream), "left": 3}


def test_a_stream_that_does_not_exist_is_found_as_none_and_loaded_as_a_refusal(log: EventLog) -> None:
    assert log.find(Account, uuid4()) is None
    with pytest.raises(AggregateNotFound):
        log.load(Account, uuid4())


def test_an_aggregate_of_another_type_is_not_found_from_the_log_nor_from_the_cache(
    log: EventLog, ledger: Ledger
) -> None:
    stream = opened(ledger)
    for _ in range(2):
        with asked(), pytest.raises(AggregateNotFound, match="no Other"):
            log.execute("look", lambda: log.load(Other, stream))


def test_a_past_version_is_loaded_from_the_log(log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    withdraw(ledger, stream, 2)
    assert [log.at_version(Account, stream, version).balance for version in (1, 2, 3)] == [0, 5, 3]


def test_a_loaded_aggregate_is_a_copy_of_the_callers_own(log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)

    def change() -> int:
        log.load(Account, stream).withdraw(5)
        return log.load(Account, stream).balance

    with asked():
        assert log.execute("change", change) == 5


def test_the_envelope_holds_who_asked_why_and_for_which_command(database_url: str, log: EventLog) -> None:
    correlation, causation = uuid4(), uuid4()
    with asked("operator:ann", correlation_id=correlation, causation_id=causation) as scope:
        log.record(Account(account_id=uuid4(), owner="me"))
    (record,) = records(database_url)
    assert (record.actor, record.command_id, record.correlation_id, record.causation_id) == (
        "operator:ann", scope.command_id, correlation, causation,
    )  # fmt: skip


def test_event_ids_derive_from_the_command_and_the_place_of_the_event_in_it(database_url: str, log: EventLog) -> None:
    account = Account(account_id=uuid4(), owner="me")
    account.deposit(1)
    with asked() as scope:
        log.record(account)
    assert [record.event_id for record in records(database_url)] == [
        event_id(scope.command_id, 0), event_id(scope.command_id, 1),
    ]  # fmt: skip


def test_two_commands_under_one_scope_have_ids_of_their_own(database_url: str, ledger: Ledger) -> None:
    stream = uuid4()
    with asked() as scope:
        ledger.open(account_id=stream)
        ledger.deposit(account_id=stream, grains=1)
        ledger.log.record(fact(stream))
        ledger.log.transact(lambda: ledger.withdraw(account_id=stream, grains=1))
    found = records(database_url)
    assert_sound(found)
    assert found[0].command_id == scope.command_id
    assert len({record.command_id for record in found}) == 4
    assert {record.correlation_id for record in found} == {scope.correlation_id}


def test_a_refusal_records_nothing(database_url: str, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    with asked(), pytest.raises(Overdrawn):
        ledger.withdraw(account_id=stream, grains=6)
    assert names(database_url) == ["Opened", "Deposited"]


def test_a_stream_is_opened_once(database_url: str, ledger: Ledger, elsewhere: Ledger) -> None:
    stream = opened(ledger)
    for service in (ledger, elsewhere):
        with asked(), pytest.raises(AlreadyExists):
            service.open(account_id=stream)
    assert names(database_url) == ["Opened"]


def test_an_append_at_a_version_that_is_taken_is_a_conflict(database_url: str, log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    first, second = log.load(Account, stream), log.load(Account, stream)
    first.withdraw(1)
    second.withdraw(1)
    with asked():
        log.record(first)
    with asked(), pytest.raises(Conflict):
        log.record(second)
    assert names(database_url) == ["Opened", "Deposited", "Withdrawn"]


def test_an_exact_append_passes_over_facts_that_commute(database_url: str, log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    held = log.load(Account, stream)
    held.withdraw(1)
    held.withdraw(2)
    deposit(ledger, stream, 7)
    deposit(ledger, stream, 7)
    with asked():
        log.record(held)
    assert [record.version for record in records(database_url)] == [1, 2, 3, 4, 5, 6]
    assert log.load(Account, stream).balance == 5 + 14 - 3


def test_an_exact_append_conflicts_with_a_fact_that_does_not_commute_behind_ones_that_do(
    log: EventLog, ledger: Ledger
) -> None:
    stream = opened(ledger, balance=5)
    held = log.load(Account, stream)
    held.withdraw(1)
    deposit(ledger, stream, 7)
    withdraw(ledger, stream, 1)
    deposit(ledger, stream, 7)
    with asked(), pytest.raises(Conflict):
        log.record(held)


def test_facts_that_commute_never_conflict_on_one_hot_stream(database_url: str, ledger: Ledger) -> None:
    stream = opened(ledger)

    def work(_: int) -> None:
        for _ in range(10):
            with asked():
                ledger.log.record(fact(stream))

    assert in_threads(32, work) == []
    assert_sound(records(database_url))
    assert ledger.log.load(Account, stream).balance == 320


def test_a_command_whose_stream_keeps_moving_is_decided_again_until_it_holds(ledger: Ledger, elsewhere: Ledger) -> None:
    stream = opened(ledger, balance=1_000)

    def work(index: int) -> None:
        for _ in range(5):
            withdraw(ledger if index % 2 else elsewhere, stream, 1)

    raised = in_threads(6, work)
    assert {type(error) for error in raised} <= {Conflict}
    done = 1_000 - ledger.log.load(Account, stream).balance
    assert done == ledger.log.load(Account, stream).version - 2
    assert done >= 30 - 5 * len(raised)


def test_a_fact_for_a_stream_that_does_not_exist_is_refused_by_name(database_url: str, ledger: Ledger) -> None:
    with asked(), pytest.raises(AggregateNotFound):
        ledger.deposit_to_open(account_id=uuid4(), grains=1)
    assert names(database_url) == []


def test_an_opener_opens_a_stream_once_however_many_bring_one(database_url: str, ledger: Ledger) -> None:
    stream = uuid4()
    assert in_threads(8, lambda _: deposit(ledger, stream, 1)) == []
    assert sorted(names(database_url)) == ["Deposited"] * 8 + ["Opened"]
    assert names(database_url)[0] == "Opened"
    assert_sound(records(database_url))


def test_one_command_may_open_several_streams(database_url: str, log: EventLog) -> None:
    first, second = uuid4(), uuid4()
    with asked():
        log.record(opener(first), opener(second), fact(second), fact(first), opener(first), fact(first))
    assert names(database_url) == ["Opened", "Opened", "Deposited", "Deposited", "Deposited"]
    assert_sound(records(database_url))


def test_an_aggregate_and_loose_facts_of_its_stream_are_recorded_together(
    database_url: str, log: EventLog, ledger: Ledger
) -> None:
    stream = opened(ledger, balance=5)
    held = log.load(Account, stream)
    held.withdraw(5)
    with asked():
        log.record(fact(stream, 3), held, fact(stream, 4))
    assert log.load(Account, stream).balance == 7
    with asked():
        ledger.withdraw(account_id=stream, grains=7)
    assert_sound(records(database_url))


def test_a_command_in_a_unit_sees_the_loose_facts_of_the_commands_before_it(
    database_url: str, log: EventLog, ledger: Ledger
) -> None:
    stream, new = opened(ledger, balance=5), uuid4()

    def step() -> None:
        ledger.deposit_to_open(account_id=stream, grains=3)
        ledger.withdraw(account_id=stream, grains=8)
        ledger.deposit(account_id=stream, grains=2)
        ledger.withdraw(account_id=stream, grains=2)
        ledger.deposit(account_id=new, grains=1)
        ledger.withdraw(account_id=new, grains=1)

    with asked():
        log.transact(step)
    assert log.load(Account, stream).balance == 0
    assert log.load(Account, new).balance == 0
    assert_sound(records(database_url))


def test_a_unit_records_all_its_commands_or_none(database_url: str, log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)

    def step() -> None:
        ledger.withdraw(account_id=stream, grains=3)
        ledger.withdraw(account_id=stream, grains=3)

    with asked(), pytest.raises(Overdrawn):
        log.transact(step)
    assert names(database_url) == ["Opened", "Deposited"]


def test_a_command_records_once(log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger)

    def twice() -> None:
        log.record(fact(stream))
        log.record(fact(stream))

    with asked(), pytest.raises(AssertionError, match="records once"):
        log.execute("twice", twice)


def test_a_command_does_not_run_another_command_outside_of_a_unit(ledger: Ledger) -> None:
    stream = opened(ledger)
    with asked(), pytest.raises(AssertionError, match="transact"):
        ledger.log.execute("outer", lambda: ledger.deposit(account_id=stream, grains=1))


def test_a_command_of_too_many_events_is_refused_and_the_largest_is_not(database_url: str, log: EventLog) -> None:
    stream = uuid4()
    facts = [fact(stream)] * (MAX_EVENTS_PER_COMMAND - 1)
    with asked():
        log.record(opener(stream), *facts)
    with asked(), pytest.raises(CommandTooLarge):
        log.record(*facts, *facts[:2])
    assert log.head() == MAX_EVENTS_PER_COMMAND


def test_a_loose_fact_that_does_not_commute_is_our_mistake(log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    with asked(), pytest.raises(AssertionError, match="needs its aggregate"):
        log.record(Account.fact(Account.Withdrawn, stream, grains=1))


def test_a_loose_fact_that_opens_a_stream_opens_it_once(database_url: str, log: EventLog) -> None:
    stream = uuid4()
    opening = Account.fact(Account.Opened, stream, account_id=stream, owner="me")
    with asked():
        log.record(opening)
    with asked(), pytest.raises(AlreadyExists):
        log.record(opening)
    assert names(database_url) == ["Opened"]


def test_the_log_is_sound_on_a_database_whose_default_is_another_isolation(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_isolation TO 'serializable'").format(name)
        )
        logs = [open_event_log(database_url) for _ in range(3)]
        try:
            stream = opened(Ledger(logs[0]), balance=1_000)

            def work(index: int) -> None:
                for _ in range(10):
                    deposit(Ledger(logs[index % 3]), stream, 1)

            assert in_threads(6, work) == []
        finally:
            connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_isolation").format(name))
            for log in logs:
                log.close()
    assert len(records(database_url)) == 62
    assert_sound(records(database_url))


def test_a_command_that_decides_nothing_answers_the_head(ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    with asked():
        assert ledger.log.record(ledger.log.load(Account, stream)).position == 2


def test_a_command_outside_of_a_scope_is_our_mistake(ledger: Ledger) -> None:
    with pytest.raises(AssertionError, match="within"):
        ledger.open(account_id=uuid4())


def test_the_time_of_a_fact_never_runs_backwards_when_the_clock_does(database_url: str) -> None:
    clock = iter([EARLY, LATE, EARLY, EARLY, LATE + timedelta(seconds=1)])
    log = open_event_log(database_url, clock=lambda: next(clock))
    try:
        for _ in range(5):
            opened(Ledger(log))
    finally:
        log.close()
    assert [record.recorded_at for record in records(database_url)] == [
        EARLY, LATE, LATE, LATE, LATE + timedelta(seconds=1),
    ]  # fmt: skip


def test_positions_stay_gapless_after_refusals_conflicts_and_flushes_that_failed(
    database_url: str, log: EventLog, ledger: Ledger
) -> None:
    stream = opened(ledger, balance=5)
    with asked(), pytest.raises(Overdrawn):
        ledger.withdraw(account_id=stream, grains=6)
    with asked(), pytest.raises(AlreadyExists):
        ledger.open(account_id=stream)
    with pytest.raises(psycopg.DataError):
        log._recorder.write(write(uuid4(), actor="no text of Postgres: \0"))
    deposit(ledger, stream, 1)
    found = records(database_url)
    assert [record.position for record in found] == [1, 2, 3]
    assert_sound(found)
