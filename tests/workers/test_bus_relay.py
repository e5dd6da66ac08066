"""The bus relay: every fact goes out once and in order, whatever the broker, the database or a second relay do."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from prometheus_client import CollectorRegistry, generate_latest

from domain.kernel import EventLog
from domain.kernel.ports import system_clock
from infrastructure.blobs import BlobStore
from infrastructure.bus import Bus
from infrastructure.bus_status import BusMetrics, dead_letters, relay_status
from infrastructure.bus_stream import Limits
from infrastructure.bus_window import BusUnavailable
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from tests.bus import STREAM, fresh_bus, message, positions, stored
from tests.cli.villages import eventually
from tests.ledger import Account, Ledger
from tests.running import asked, deposit, in_background, opened, records, withdraw
from workers.bus_relay import BusRelay, StreamDiverged

Relay = Callable[..., BusRelay]


@pytest.fixture
def bus(nats_url: str) -> Iterator[Bus]:
    with fresh_bus(nats_url) as bus:
        yield bus


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    log: EventLog = open_event_log(database_url)
    yield Ledger(log)
    log.close()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore.open(None, home=tmp_path)


@pytest.fixture
def relay(database: Database, bus: Bus, blobs: BlobStore) -> Iterator[Relay]:
    """Makes relays of this village."""
    made = []

    def make(**given: object) -> BusRelay:
        made.append(BusRelay(database, bus, blobs, origin="test village", **given))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def work(ledger: Ledger, rounds: int = 10) -> None:
    """Three accounts, six facts a round."""
    accounts = [opened(ledger) for _ in range(3)]
    for _ in range(rounds):
        for account in accounts:
            deposit(ledger, account, 5)
            withdraw(ledger, account, 1)


def head(message: RawStreamMsg, name: str) -> str:
    return str((message.headers or {})[name])


def cursor(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT position FROM engine.cursors WHERE name = 'relay:bus'").fetchone()
    assert row is not None
    return int(row[0])


def test_every_fact_is_on_the_bus_once_in_the_order_of_the_log(
    ledger: Ledger, relay: Relay, bus: Bus, database_url: str
) -> None:
    work(ledger)
    assert relay().run_once() == 63
    found, facts = stored(bus), records(database_url)
    assert [UUID(head(message, "ce-id")) for message in found] == [fact.event_id for fact in facts]
    assert positions(found) == [fact.position for fact in facts]
    assert cursor(database_url) == 63


def test_a_message_tells_its_fact_in_plain_headers_and_as_a_cloud_event(
    ledger: Ledger, relay: Relay, bus: Bus, database_url: str
) -> None:
    with asked("operator:ada ä"):
        ledger.open(account_id=uuid4(), owner="ada")
    relay().run_once()
    (found,), (fact,) = stored(bus), records(database_url)
    at = fact.recorded_at.isoformat().replace("+00:00", "Z")
    assert found.subject == "log.testing.Account.Opened"
    assert found.data == fact.state
    headers = found.headers or {}
    assert {name: value for name, value in headers.items() if not name.startswith("Nats-")} == {
        "event_id": str(fact.event_id),
        "timestamp": at,
        "source_service": "testing",
        "ce-specversion": "1.0",
        "ce-id": str(fact.event_id),
        "ce-source": "test%20village/testing",
        "ce-type": "ai-village.testing.Account.Opened",
        "ce-subject": str(fact.stream),
        "ce-time": at,
        "ce-datacontenttype": "application/json",
        "ce-position": "1",
        "ce-streamversion": "1",
        "ce-correlationid": str(fact.correlation_id),
        "ce-actor": "operator:ada%20%C3%A4",
    }
    assert headers["Nats-Msg-Id"] == str(fact.event_id)


def test_a_relay_that_died_before_it_moved_its_cursor_publishes_nothing_twice(
    ledger: Ledger, relay: Relay, bus: Bus, database_url: str
) -> None:
    work(ledger, rounds=2)
    relay().run_once()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE engine.cursors SET position = 4 WHERE name = 'relay:bus'")
    work(ledger, rounds=1)
    assert relay().run_once() == 24
    assert positions(stored(bus)) == list(range(1, 25))


def test_it_does_not_need_the_broker_s_memory_of_ids(ledger: Ledger, relay: Relay, bus: Bus, database_url: str) -> None:
    """The ids are remembered for two minutes, a relay may be away for longer."""

    async def forget(context: JetStreamContext) -> None:
        config = (await context.stream_info(STREAM)).config
        await context.update_stream(config.evolve(duplicate_window=0.1))

    bus.call(forget)
    work(ledger, rounds=1)
    relay().run_once()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE engine.cursors SET position = 0 WHERE name = 'relay:bus'")
    threading.Event().wait(0.3)
    relay().run_once()
    assert positions(stored(bus)) == list(range(1, 10))


def test_a_broker_that_lost_the_end_of_its_stream_gets_it_again(
    ledger: Ledger, relay: Relay, bus: Bus, database_url: str
) -> None:
    """As after a restore from a backup: the stream ends earlier than the cursor says."""
    work(ledger, rounds=1)
    first = relay()
    first.run_once()

    async def restore(context: JetStreamContext) -> None:
        kept = [await context.get_msg(STREAM, number) for number in range(1, 6)]
        await context.delete_stream(STREAM)
        bus._context = None
        remade = await bus._connected()
        for old in kept:
            headers = {name: value for name, value in (old.headers or {}).items() if name.startswith("ce-")}
            await remade.publish(old.subject or "", old.data or b"", headers=headers)

    bus.call(restore)
    assert positions(stored(bus)) == [1, 2, 3, 4, 5]
    work(ledger, rounds=0)
    assert relay().run_once() == 12
    assert positions(stored(bus)) == list(range(1, 13))
    assert cursor(database_url) == 12


def test_a_new_broker_is_filled_with_what_the_stream_keeps_and_an_emptied_stream_stays_empty(
    ledger: Ledger, relay: Relay, bus: Bus
) -> None:
    work(ledger, rounds=1)
    relay().run_once()
    bus.call(lambda context: context.delete_stream(STREAM))
    bus.disconnect()
    relay().run_once()
    assert positions(stored(bus)) == list(range(1, 10))

    bus.call(lambda context: context.purge_stream(STREAM))
    relay().run_once()
    assert stored(bus) == []

    bus.call(lambda context: context.delete_stream(STREAM))
    bus.disconnect()
    later = lambda: system_clock() + timedelta(days=30)  # noqa: E731
    relay(limits=Limits(max_age_s=86_400.0), clock=later).run_once()
    assert stored(bus) == []


def test_another_village_s_stream_is_left_alone(ledger: Ledger, relay: Relay, bus: Bus, database: Database) -> None:
    bus.publish([message(1), message(2)], after=0)
    work(ledger, rounds=1)
    with pytest.raises(StreamDiverged):
        relay().run_once()
    assert len(stored(bus)) == 2
    with database.reader.connection() as connection:
        status = relay_status(connection)
    assert status is not None
    assert status.failing
    assert "StreamDiverged" in (status.error or "")


def test_a_relay_that_works_again_says_so_though_it_has_nothing_to_publish(
    relay: Relay, bus: Bus, database: Database, database_url: str
) -> None:
    bus.publish([message(1)], after=0)
    one = relay()
    with pytest.raises(StreamDiverged):
        one.step()
    bus.call(lambda context: context.purge_stream(STREAM))
    assert not one.step()
    with database.reader.connection() as connection:
        status = relay_status(connection)
    assert status is not None
    assert (status.failing, status.failures) == (False, 1)


def test_a_payload_that_is_too_large_goes_by_reference_and_the_relay_goes_on(
    ledger: Ledger, relay: Relay, bus: Bus, blobs: BlobStore, database_url: str
) -> None:
    account = opened(ledger)
    with asked():
        large = ledger.log.load(Account, account)
        large.tag([], {f"note {number}": number for number in range(60_000)}, None, system_clock())
        ledger.log.record(large)
    deposit(ledger, account, 1)
    relay().run_once()
    before, referred, after = stored(bus)
    state = records(database_url)[1].state
    digest = hashlib.sha256(state).hexdigest()
    assert len(state) > 1_048_576
    assert (before.data, after.data) == (records(database_url)[0].state, b'{"grains":1}')
    assert not referred.data
    assert head(referred, "ce-dataref") == f"/v1/blobs/{digest}"
    assert blobs.read(digest, 0, len(state)) == state


def _told(bus: Bus) -> int | None:
    """The last position in the stream; None while a busy broker does not answer in time."""
    with suppress(BusUnavailable):
        return bus.tail().position
    return None


def test_two_relays_at_once_publish_each_fact_once(
    ledger: Ledger, database: Database, nats_url: str, bus: Bus, blobs: BlobStore
) -> None:
    with Bus(nats_url, STREAM) as other:
        relays = [BusRelay(database, one, blobs, origin="test") for one in (bus, other)]
        with in_background(*(relay.run for relay in relays)):
            for _ in range(5):
                work(ledger, rounds=5)
            total = ledger.log.head()
            assert eventually(lambda: _told(bus) == total, 60)
    assert positions(stored(bus)) == list(range(1, total + 1))


def test_lag_failures_and_dead_letters_are_told_in_the_words_of_prometheus(
    ledger: Ledger, relay: Relay, database: Database, database_url: str
) -> None:
    work(ledger, rounds=1)
    relay().run_once()
    work(ledger, rounds=1)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO engine.bus_dead_letters (consumer, message_id, stream, sequence, deliveries, reason)"
            " VALUES ('books', 'x', 's', 1, 6, 'poison')"
        )
    with database.reader.connection() as connection:
        status, letters = relay_status(connection), dead_letters(connection)
    assert status is not None
    assert (status.position, status.lag_events, status.published, status.failing) == (9, 9, 9, False)
    assert status.lag_s is not None
    assert 0 <= status.lag_s < 60
    registry = CollectorRegistry()
    registry.register(BusMetrics(status, letters))
    told = generate_latest(registry).decode()
    assert "village_bus_published_total 9.0" in told
    assert "village_bus_lag_events 9.0" in told
    assert 'village_bus_dead_letters{consumer="books"} 1.0' in told


def test_before_the_first_run_there_is_no_status(database: Database) -> None:
    with database.reader.connection() as connection:
        assert relay_status(connection) is None
