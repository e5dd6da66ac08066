"""The bus: order and no doubles whatever happens to the broker, and bounds on everything."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from nats.js.api import StorageType

from infrastructure.bus import Bus, PayloadTooLarge
from infrastructure.bus_stream import Limits, StreamUnfit, Tail, ensure_streams
from infrastructure.bus_window import BATCH_BYTES, WINDOW, BusUnavailable, OrderLost, _batches
from infrastructure.embedded.nats import EmbeddedNats
from tests.bus import STREAM, config_of, fresh_bus, message, positions, run_of, stored
from tests.servers import wait_until_ended


@pytest.fixture
def bus(nats_url: str) -> Iterator[Bus]:
    with fresh_bus(nats_url) as bus:
        yield bus


@pytest.fixture(params=["atomic batches", "one by one"])
def either_bus(bus: Bus, request: pytest.FixtureRequest) -> Bus:
    """Both ways to publish: a broker older than 2.12 knows no batches."""
    bus.tail()
    bus._atomic = request.param == "atomic batches"
    return bus


@pytest.fixture
def server(short_home: Path) -> Iterator[EmbeddedNats]:
    """A broker of the test's own, to be ended at will."""
    home = short_home / f"bus{time.monotonic_ns()}"
    with EmbeddedNats(home) as server:
        yield server
    shutil.rmtree(home, ignore_errors=True)


def test_messages_are_stored_in_order_each_once(either_bus: Bus) -> None:
    outcome = either_bus.publish(run_of(1, 700), after=0)
    assert (outcome.count, outcome.sequence, outcome.failure) == (700, 700, None)
    assert positions(stored(either_bus)) == list(range(1, 701))


def test_the_tail_names_the_fact_that_is_stored_last(bus: Bus) -> None:
    assert bus.tail() == Tail(0)
    bus.publish(run_of(1, 3), after=0)
    assert bus.tail() == Tail(3, 3, message(3).event_id)


def test_the_tail_of_a_stream_that_was_emptied_or_ended_by_a_stranger_names_no_fact(bus: Bus) -> None:
    bus.publish(run_of(1, 3), after=0)
    bus.call(lambda context: context.publish("log.stranger", b"?"))
    assert bus.tail() == Tail(4)
    bus.call(lambda context: context.purge_stream(STREAM))
    assert bus.tail() == Tail(4)


def test_a_publisher_with_an_old_idea_of_the_end_stores_nothing(either_bus: Bus) -> None:
    either_bus.publish(run_of(1, 40), after=0)
    # Were the messages chained by sequence alone, the eleventh would fit here.
    outcome = either_bus.publish(run_of(100, 20), after=30)
    assert outcome.count == 0
    assert isinstance(outcome.failure, OrderLost)
    assert positions(stored(either_bus)) == list(range(1, 41))


def test_a_stranger_s_message_in_between_is_noticed_and_skips_none_of_ours(either_bus: Bus) -> None:
    either_bus.publish(run_of(1, 10), after=0)
    either_bus.call(lambda context: context.publish("log.stranger", b"?"))
    outcome = either_bus.publish(run_of(11, 20), after=10)
    assert outcome.count == 0
    assert isinstance(outcome.failure, OrderLost)
    assert either_bus.tail().sequence == 11


def test_the_same_ids_again_are_not_stored_again(either_bus: Bus) -> None:
    either_bus.publish(run_of(1, 20), after=0)
    outcome = either_bus.publish(run_of(1, 20), after=20)
    assert isinstance(outcome.failure, OrderLost)
    assert positions(stored(either_bus)) == list(range(1, 21))


def test_two_publishers_at_once_leave_one_run_without_gap_or_double(nats_url: str, bus: Bus) -> None:
    bus.tail()

    def publish_all(own: Bus) -> None:
        done = 0
        for _ in range(1_000):
            tail = own.tail()
            done = tail.position or 0
            if done == 600:
                return
            own.publish(run_of(done + 1, min(50, 600 - done)), after=tail.sequence)
        raise AssertionError(f"came to {done} only")

    with Bus(nats_url, STREAM) as other:
        threads = [threading.Thread(target=publish_all, args=[own]) for own in (bus, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert positions(stored(bus)) == list(range(1, 601))


def test_a_payload_that_is_too_large_is_refused_by_name_after_those_before_it(either_bus: Bus) -> None:
    large = message(3, payload=b"x" * 1_048_576)
    outcome = either_bus.publish([*run_of(1, 2), large, *run_of(4, 2)], after=0)
    assert outcome.count == 2
    assert isinstance(outcome.failure, PayloadTooLarge)
    assert "at 3: " in str(outcome.failure)
    assert positions(stored(either_bus)) == [1, 2]


def test_batches_are_bounded_in_number_and_bytes() -> None:
    small = [len(batch) for batch in _batches(run_of(1, 2 * WINDOW + 1))]
    assert small == [WINDOW, WINDOW, 1]
    large = [message(number, payload=b"x" * (BATCH_BYTES // 3)) for number in range(5)]
    assert [len(batch) for batch in _batches(large)] == [2, 2, 1]
    assert list(_batches([])) == []


def test_a_stream_is_made_once_with_bounds_and_an_operator_s_limits_stay(bus: Bus) -> None:
    made = config_of(bus)
    assert made.storage == StorageType.FILE
    assert sorted(made.subjects or []) == ["events.>", "log.>"]
    assert (made.max_bytes, made.max_age, made.duplicate_window) == (4 << 30, 14 * 86_400, 120)
    bus.call(lambda context: context.update_stream(made.evolve(max_bytes=1 << 30, subjects=["events.>"])))
    bus.disconnect()
    again = config_of(bus)
    assert again.max_bytes == 1 << 30
    assert sorted(again.subjects or []) == ["events.>", "log.>"]


def test_a_stream_in_memory_is_refused(bus: Bus) -> None:
    made = config_of(bus)

    async def make(context: JetStreamContext) -> None:
        await context.delete_stream(STREAM)
        await context.add_stream(made.evolve(storage=StorageType.MEMORY, max_bytes=1 << 20))
        await ensure_streams(context, STREAM, Limits(), atomic=True)

    with pytest.raises(StreamUnfit):
        bus.call(make)


def test_a_broker_that_is_away_is_told_at_once_and_the_secret_of_its_address_is_not(server: EmbeddedNats) -> None:
    url = server.url
    server.stop()
    with Bus(url, STREAM) as bus:
        started = time.monotonic()
        with pytest.raises(BusUnavailable) as told:
            bus.tail()
    assert time.monotonic() - started < 20
    assert url.split(":")[2].split("@")[0] not in f"{told.value!r} {told.value.__cause__!r}"


def test_a_broker_killed_while_messages_are_on_their_way_loses_and_doubles_none(server: EmbeddedNats) -> None:
    with Bus(server.url, STREAM) as bus:
        assert bus.publish(run_of(1, 10), after=0).count == 10
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, [server.pid, signal.SIGKILL]).start()
        outcome = bus.publish(run_of(11, 500), after=10)
        assert isinstance(outcome.failure, BusUnavailable)
        wait_until_ended(server)
        server.start()
        tail = bus.tail()
        assert tail.position == tail.sequence >= 10
        assert bus.publish(run_of(tail.sequence + 1, 510 - tail.sequence), tail.sequence).failure is None
        assert positions(stored(bus)) == list(range(1, 511))


def test_a_broker_that_freezes_is_given_up_and_the_same_ids_go_through_later(
    server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infrastructure.bus_window.ACK_TIMEOUT_S", 0.5)
    with Bus(server.url, STREAM) as bus:
        bus.tail()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        outcome = bus.publish(run_of(1, 20), after=0)
        os.kill(server.pid, signal.SIGCONT)
        assert isinstance(outcome.failure, BusUnavailable)
        tail = bus.tail()  # what was on its way may have arrived since
        if tail.sequence < 20:
            bus.publish(run_of(tail.sequence + 1, 20 - tail.sequence), after=tail.sequence)
        assert positions(stored(bus)) == list(range(1, 21))


def test_closing_twice_is_no_harm(nats_url: str) -> None:
    bus, before = Bus(nats_url, STREAM), threading.active_count()
    for _ in range(2):
        bus.close()
    assert threading.active_count() < before
