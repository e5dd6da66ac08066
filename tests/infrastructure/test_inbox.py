"""The inbox: one effect a message whatever is delivered twice, and poison that is not forgotten."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from nats.js import JetStreamContext

from infrastructure.bus import Bus
from infrastructure.bus_letters import DeadLetterRouter
from infrastructure.bus_status import dead_letters
from infrastructure.database import Database
from infrastructure.inbox import Consumer, Handler, Received
from tests.bus import fresh_bus, message, run_of
from tests.running import in_background

FAST = {"ack_wait_s": 20.0, "backoff_s": (0.05,), "max_deliver": 3}


@pytest.fixture
def bus(nats_url: str) -> Iterator[Bus]:
    with fresh_bus(nats_url) as bus:
        yield bus


@pytest.fixture
def effects(database: Database, database_url: str) -> Callable[[], list[int]]:
    """A table that only the handlers write, and the positions in it in the order of their effects."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("CREATE TABLE effects (number bigserial, position bigint, note text)")
        owner.execute("GRANT ALL ON effects, effects_number_seq TO village_writer")

    def positions() -> list[int]:
        with database.writer.connection() as connection:
            return [row[0] for row in connection.execute("SELECT position FROM effects ORDER BY number")]

    return positions


def note(connection: psycopg.Connection[Any], got: Received) -> None:
    connection.execute("INSERT INTO effects (position, note) VALUES (%s, %s)", (got.position, got.subject))


def consumer(bus: Bus, database: Database, handle: Handler = note, name: str = "test", **given: Any) -> Consumer:
    return Consumer(bus, database, name, ["log.testing.>"], handle, **{**FAST, **given})


def drain(consumer: Consumer, router: DeadLetterRouter | None = None, *, quiet_s: float = 0.6) -> None:
    """Until nothing comes for a while, retries and dead letters included."""
    heard_at = time.monotonic()
    while time.monotonic() - heard_at < quiet_s:
        if consumer.step(wait_s=0.2) + (router.step(0.1) if router is not None else 0):
            heard_at = time.monotonic()


def letters(database: Database) -> list[tuple[Any, ...]]:
    with database.writer.connection() as connection:
        return connection.execute(
            "SELECT consumer, message_id, subject, deliveries, reason, payload, resolved_at"
            " FROM engine.bus_dead_letters"
        ).fetchall()


@pytest.mark.parametrize("in_order", [True, False])
def test_every_message_has_its_effect_once_in_order(
    bus: Bus, database: Database, effects: Callable[[], list[int]], in_order: bool
) -> None:
    bus.publish(run_of(1, 50), after=0)
    drain(consumer(bus, database, in_order=in_order))
    assert effects() == list(range(1, 51))


def test_a_message_delivered_again_after_its_effect_has_none(
    bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    bus.publish(run_of(1, 3), after=0)
    first = consumer(bus, database, ack_wait_s=1.0)
    (got,) = first._puller.pull(1, 1.0)
    first._handle_once(got)  # and dies before it can acknowledge
    assert effects() == [1]
    drain(consumer(bus, database, ack_wait_s=1.0), quiet_s=3.0)
    assert effects() == [1, 2, 3]


def test_an_effect_that_fails_leaves_nothing_and_is_tried_again_before_what_follows(
    bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    bus.publish(run_of(1, 3), after=0)
    failures = [2]

    def fail_once(connection: psycopg.Connection[Any], got: Received) -> None:
        note(connection, got)
        if got.position in failures:
            failures.remove(got.position)
            raise RuntimeError("not now")

    drain(consumer(bus, database, fail_once))
    assert effects() == [1, 2, 3]


def test_poison_becomes_a_dead_letter_with_its_reason_and_the_others_go_on(
    bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    router = DeadLetterRouter(bus, database)
    bus.publish(run_of(1, 3), after=0)

    def refuse_two(connection: psycopg.Connection[Any], got: Received) -> None:
        if got.position == 2:
            raise RuntimeError("two is poison")
        note(connection, got)

    drain(consumer(bus, database, refuse_two), router)
    assert effects() == [1, 3]
    ((name, message_id, subject, deliveries, reason, payload, resolved_at),) = letters(database)
    assert (name, UUID(message_id), subject) == ("test", UUID(int=2), "log.testing.Account.Deposited")
    assert (deliveries, payload, resolved_at) == (3, b"{}", None)
    assert "failed 3 times" in reason
    assert "two is poison" in reason
    with database.reader.connection() as connection:
        assert dead_letters(connection) == {"test": 1}


def test_a_dead_letter_is_handled_after_all_once(
    bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    router = DeadLetterRouter(bus, database)
    bus.publish(run_of(1, 1), after=0)
    healthy = threading.Event()

    def handle(connection: psycopg.Connection[Any], got: Received) -> None:
        if not healthy.is_set():
            raise RuntimeError("ill")
        note(connection, got)

    ill = consumer(bus, database, handle)
    drain(ill, router)
    with pytest.raises(RuntimeError, match="ill"):
        ill.retry([UUID(int=1)])
    healthy.set()
    assert ill.retry([UUID(int=1), UUID(int=7)]) == 1
    assert ill.retry([UUID(int=1)]) == 0
    assert effects() == [1]
    with database.reader.connection() as connection:
        assert dead_letters(connection) == {}


def test_a_message_that_names_no_fact_is_a_dead_letter_by_its_sequence(
    bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    router = DeadLetterRouter(bus, database)
    bus.call(lambda context: context.publish("log.testing.stranger", b"?"))
    drain(consumer(bus, database), router)
    ((_, message_id, _, _, reason, payload, _),) = letters(database)
    assert (message_id, payload) == ("sequence 1", b"?")
    assert reason == "it does not say which fact it is"


def test_a_consumer_that_never_answers_is_given_up_with_that_reason(bus: Bus, database: Database) -> None:
    """Also one that is not ours and has no inbox."""
    router = DeadLetterRouter(bus, database)
    bus.publish(run_of(1, 1), after=0)
    silent = consumer(bus, database, ack_wait_s=0.3, max_deliver=2, name="foreign")
    for _ in range(4):
        silent._puller.pull(1, 0.6)
    while not router.step(0.5):
        pass
    ((name, _, _, _, reason, _, _),) = letters(database)
    assert (name, reason) == ("foreign", "not acknowledged in 2 deliveries")


def test_what_was_handled_is_no_dead_letter_though_every_acknowledgement_was_lost(
    bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    router = DeadLetterRouter(bus, database)
    bus.publish(run_of(1, 1), after=0)
    deaf = consumer(bus, database, ack_wait_s=0.3, max_deliver=2)
    for _ in range(4):
        for got in deaf._puller.pull(1, 0.6):
            deaf._handle_once(got)
    while not router.step(0.5):
        pass
    assert effects() == [1]
    assert letters(database) == []


def test_a_note_routed_twice_is_one_letter_and_one_of_a_message_that_is_gone_says_so(
    bus: Bus, database: Database
) -> None:
    note_of = (
        b'{"type":"io.nats.jetstream.advisory.v1.max_deliver","stream":"village_test","consumer":"c",'
        b'"stream_seq":%d,"deliveries":5}'
    )
    subject = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.village_test.c"
    bus.publish(run_of(1, 1), after=0)

    async def tell(context: JetStreamContext) -> None:
        for sequence in (1, 1, 99):
            await context.publish(subject, note_of % sequence)

    bus.call(tell)
    assert DeadLetterRouter(bus, database).step(1.0) == 3
    found = sorted((message_id, reason) for _, message_id, _, _, reason, _, _ in letters(database))
    assert found == [
        (str(UUID(int=1)), "not acknowledged in 5 deliveries"),
        ("sequence 99", "the stream no longer has the message"),
    ]


def test_a_database_that_is_away_costs_no_delivery(
    bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    bus.publish(run_of(1, 2), after=0)
    away = [True] * 5

    def handle(connection: psycopg.Connection[Any], got: Received) -> None:
        note(connection, got)
        if away:
            away.pop()
            raise psycopg.OperationalError("the connection is lost")  # as psycopg has it: without an SQLSTATE
        assert got.deliveries == 1

    drain(consumer(bus, database, handle, max_deliver=2))
    assert effects() == [1, 2]


def test_a_deadlock_is_the_message_s_own_failure(bus: Bus, database: Database) -> None:
    router = DeadLetterRouter(bus, database)
    bus.publish(run_of(1, 1), after=0)

    def handle(connection: psycopg.Connection[Any], got: Received) -> None:
        raise psycopg.errors.DeadlockDetected("twice locked")

    drain(consumer(bus, database, handle, max_deliver=2), router)
    assert len(letters(database)) == 1


def test_a_slow_handler_of_a_whole_batch_keeps_the_broker_from_sending_it_again(
    bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    bus.publish(run_of(1, 12), after=0)
    deliveries = []

    def handle(connection: psycopg.Connection[Any], got: Received) -> None:
        note(connection, got)
        deliveries.append(got.deliveries)
        time.sleep(0.25)

    drain(consumer(bus, database, handle, in_order=False, max_deliver=2, ack_wait_s=1.0))
    assert effects() == list(range(1, 13))
    assert deliveries == [1] * 12


def test_what_was_handled_last_is_acknowledged_when_the_consumer_stops(
    bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    bus.publish(run_of(1, 1), after=0)
    own = consumer(bus, database)
    assert own.step(wait_s=2.0) == 1
    own.close()
    info = bus.call(lambda context: context.consumer_info(bus.stream, "test"))
    assert (info.num_ack_pending, info.ack_floor.stream_seq if info.ack_floor else 0) == (0, 1)


def test_two_instances_of_a_consumer_share_the_work_and_have_each_effect_once(
    nats_url: str, bus: Bus, database: Database, effects: Callable[[], list[int]]
) -> None:
    bus.publish(run_of(1, 200), after=0)
    last = threading.Event()

    def handle(connection: psycopg.Connection[Any], got: Received) -> None:
        note(connection, got)
        if got.position == 200:
            last.set()

    with Bus(nats_url, bus.stream) as other:
        both = [consumer(one, database, handle) for one in (bus, other)]
        with in_background(*(one.run for one in both)):
            last.wait(60)
    drain(consumer(bus, database))
    assert effects() == list(range(1, 201))


def test_the_inbox_forgets_what_the_stream_has_forgotten(bus: Bus, database: Database, database_url: str) -> None:
    bus.publish([message(1), message(2)], after=0)
    own = consumer(bus, database, handle=lambda connection, got: None)
    drain(own)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE engine.bus_inbox SET handled_at = now() - interval '31 days' WHERE position = 1")
    own._prune()
    with database.reader.connection() as connection:
        assert connection.execute("SELECT position FROM engine.bus_inbox").fetchall() == [(2,)]
