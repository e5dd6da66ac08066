"""Batches of many facts: new rows go in by COPY, a rebuild gathers what it reads before it writes."""

import random
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from benchmarks.history import write
from benchmarks.mixture import mixture
from domain.kernel import EventLog, new_scope, within
from domain.monitoring import MonitoringService
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader, open_event_log
from projections.catalogue import READ_MODELS
from projections.fold import COPY_FROM
from projections.monitoring import Controls
from projections.replay import compare
from projections.rows import ReadModel
from tests.balances import Balances, create_tables
from tests.infrastructure.event_store.test_closing import until
from tests.ledger import Account, Ledger, Tag
from tests.running import asked
from workers.projector import Projector

MANY = COPY_FROM + 10
MODELS: list[ReadModel[Any]] = [Controls(), Balances()]
UNSTORABLE = 10**9
REBUILT_TO = "SELECT position FROM engine.cursors WHERE name = 'rebuild:balances'"


@pytest.fixture
def log(database_url: str, database: Database) -> Iterator[EventLog]:
    create_tables(database)
    log = open_event_log(database_url)
    yield log
    log.close()


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild reads seven facts at a time, and is never so near to the head that the swap folds them."""
    monkeypatch.setattr("workers.projector.REBUILD_READ", 7)
    monkeypatch.setattr("projections.rebuild.MAX_LAST_FACTS", 0)


def open_many(log: EventLog, *amounts: int) -> None:
    ledger = Ledger(log)
    for number in range(MANY):
        account_id = uuid4()
        with asked():
            ledger.open(account_id=account_id, owner=f"owner {number}")
        for grains in amounts:
            with asked():
                ledger.deposit_to_open(account_id=account_id, grains=grains)


def ask_for_rebuild(log: EventLog, *names: str) -> None:
    for name in names:
        with within(new_scope("operator:test")):
            MonitoringService(log, names).rebuild_projection(name=name, reason="the test asks")


def differences(database: Database, models: Any = MODELS) -> list[Any]:
    with database.connect(Role.READER) as connection:
        return compare(connection, models).differences


def query(database: Database, text: str) -> list[Any]:
    with database.reader.connection() as connection:
        return connection.execute(text.encode()).fetchall()


def spoil(database: Database) -> None:
    with database.connect(Role.PROJECTOR) as connection:
        connection.execute("UPDATE read.balances SET grains = grains + 1")


def test_many_new_rows_are_written_as_they_were_folded_whatever_their_columns_hold(
    log: EventLog, database: Database
) -> None:
    for number in range(MANY):
        account = Account(account_id=uuid4(), owner=f'"{number}", \\N')
        if number % 2:
            account.tag([Tag("é,'", 1)], {}, None if number % 3 else 0.1, new_scope("test").now)
        with asked():
            log.record(account)

    Projector(database, MODELS).run_once()

    assert query(database, "SELECT count(*), count(tagged_at) FROM read.balances") == [(MANY, MANY // 2)]
    assert differences(database) == []


def test_a_row_that_cannot_be_stored_is_found_among_many_and_held_back_alone(
    log: EventLog, database: Database, small_reads: None
) -> None:
    open_many(log, 1)
    bob = uuid4()
    with asked():
        Ledger(log).open(account_id=bob, owner="Bob")
    for grains in (1, UNSTORABLE, 1):
        with asked():
            Ledger(log).deposit_to_open(account_id=bob, grains=grains)
    seen = "SELECT count(*), sum(grains) FROM read.balances"
    letters = "SELECT cursor, key, poison FROM engine.dead_letters ORDER BY position"

    Projector(database, MODELS, batch_size=1_000).run_once()
    live = query(database, seen), query(database, letters)
    spoil(database)
    ask_for_rebuild(log, "balances")
    Projector(database, MODELS, batch_size=1_000).run_once()

    assert live == ([(MANY + 1, MANY + 1)], [("balances", f'"{bob}"', True), ("balances", f'"{bob}"', False)])
    assert (query(database, seen), query(database, letters)) == live


def test_a_rebuild_that_gathers_several_reads_gives_the_rows_of_one_fact_after_the_other(
    log: EventLog, database: Database, small_reads: None
) -> None:
    ledger, dice = Ledger(log), random.Random(5)
    accounts = [uuid4() for _ in range(6)]
    for _ in range(90):
        with asked():
            ledger.deposit(account_id=dice.choice(accounts), grains=dice.randint(1, 9))
    Projector(database, MODELS).run_once()
    spoil(database)
    ask_for_rebuild(log, "balances")

    Projector(database, MODELS, batch_size=30).run_once()

    assert query(database, "SELECT 1 FROM engine.cursors WHERE name LIKE 'rebuild:%'") == []
    assert differences(database) == []


def test_a_rebuild_killed_with_rows_not_yet_written_goes_on_from_its_cursor(
    log: EventLog, database: Database, small_reads: None
) -> None:
    open_many(log, 1, 2)
    Projector(database, MODELS).run_once()
    spoil(database)
    ask_for_rebuild(log, "balances")
    killed = Projector(database, MODELS, batch_size=40, lease_s=1.0)
    written = unwritten = 0
    for _ in range(100):
        killed.step()
        killed._refresh_at = 0.0
        (written,) = next(iter(query(database, REBUILT_TO)), (0,))
        unwritten = max((one.end - written for one in killed._pending.values()), default=0)
        if written and unwritten:
            break
    killed.close()  # the connection is gone, the lease is not given back
    until(lambda: not query(database, "SELECT 1 FROM engine.cursors WHERE leased_until > clock_timestamp()"))

    Projector(database, MODELS, lease_s=1.0).run_once()

    assert written > 0
    assert unwritten > 0
    assert differences(database) == []


def test_what_begins_a_row_opens_the_stream_it_is_of_or_takes_no_notice_of_a_row_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.mixture.DEVICES", 40)
    write(database, mixture(500))
    with database.reader.connection() as connection:
        facts = [record.fact() for record in LogReader(connection).after(0).records]
    begun = set()
    for model in READ_MODELS:
        assert set(model.begins) <= set(model.listens)
        row: Any = None
        for fact in facts:
            if fact.topic in model.beginnings:
                for key in model.keys(fact):
                    made = model.evolve(None, fact, key)
                    assert (fact.version, fact.stream) == (1, key) or model.evolve(row, fact, key) == made
                    row = made
                begun.add(model.name)
    assert {"devices", "wallets", "transfers", "training_rounds", "round_participants", "reward_claims"} <= begun


def test_every_read_model_of_a_village_comes_out_the_same_live_and_rebuilt(
    log: EventLog, database: Database, small_reads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.mixture.DEVICES", 60)
    write(database, mixture(2_000))
    log.close()
    log = open_event_log(database.url)
    Projector(database, READ_MODELS).run_once()
    assert differences(database, READ_MODELS) == []
    filled = {model.name for model in READ_MODELS if query(database, f"SELECT 1 FROM {model.table} LIMIT 1")}

    ask_for_rebuild(log, *(model.name for model in READ_MODELS))
    Projector(database, READ_MODELS, batch_size=300).run_once()

    log.close()
    assert query(database, "SELECT 1 FROM engine.cursors WHERE name LIKE 'rebuild:%'") == []
    assert differences(database, READ_MODELS) == []
    assert query(database, "SELECT 1 FROM engine.dead_letters") == []
    assert {"wallets", "devices", "round_participants", "sagas", "reward_claims", "device_payouts"} <= filled
