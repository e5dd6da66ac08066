"""Presence on a real Postgres: facts only on transitions, and rows and log agree whatever crashes in between."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import accumulate, count, pairwise
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.device_registry.device import Device
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import EventLog, Receipt
from infrastructure.database import Database
from infrastructure.event_store import LogReader, open_event_log
from infrastructure.presence import MAX_SEQUENCE, HeartbeatReplayed, PresenceStore, Silence
from tests.devices import NOW, enrol
from workers.presence_clock import PresenceClock

_sequences = count(1)


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    log = open_event_log(database_url)
    yield log
    log.close()


@pytest.fixture
def service(log: EventLog) -> DeviceRegistryService:
    return DeviceRegistryService(log)


@pytest.fixture
def store(database: Database, service: DeviceRegistryService) -> PresenceStore:
    return PresenceStore(database, service)


def at(seconds: int) -> datetime:
    return NOW + timedelta(seconds=seconds)


def send(
    store: PresenceStore,
    device_id: UUID,
    sequence: int,
    *,
    key_number: int = 0,
    latency_ms: int | None = None,
    now: datetime = NOW,
) -> str:
    return store.beat(device_id=device_id, key_number=key_number, sequence=sequence, latency_ms=latency_ms, now=now)


def beat(store: PresenceStore, device_id: UUID, seconds: int, latency_ms: int | None = None) -> str:
    return send(store, device_id, next(_sequences), latency_ms=latency_ms, now=at(seconds))


def watch(clock: PresenceClock, start: int, end: int) -> None:
    for seconds in range(start, end + 1, 5):
        clock.tick(at(seconds))


def presence_facts(database: Database, device_id: UUID) -> list[tuple[str, datetime]]:
    with database.reader.connection() as connection:
        facts = [record.fact() for record in LogReader(connection).of_streams([device_id])]
    return [
        (type(fact.event).__name__, getattr(fact.event, "seen_at", None) or fact.event.last_seen_at)
        for fact in facts
        if type(fact.event).__name__.startswith("Went")
    ]


def row(database: Database, device_id: UUID) -> tuple[str, int, int | None]:
    with database.reader.connection() as connection:
        found = connection.execute(
            "SELECT state, sequence, latency_class_ms FROM edge.presence WHERE device_id = %s", (device_id,)
        ).fetchone()
    assert found is not None
    return found[0], found[1], found[2]


def test_a_hundred_heartbeats_are_one_fact(
    store: PresenceStore, service: DeviceRegistryService, log: EventLog, database: Database
) -> None:
    device_id = enrol(service)
    for seconds in range(100):
        beat(store, device_id, seconds)
    assert presence_facts(database, device_id) == [("WentOnline", at(0))]
    assert log.head() == 3


def test_silence_degrades_after_45_s_and_loses_after_90_s_and_30_s_of_heartbeats_bring_back(
    store: PresenceStore, service: DeviceRegistryService, database: Database
) -> None:
    device_id = enrol(service)
    clock = PresenceClock(store)
    beat(store, device_id, 0)
    watch(clock, 0, 40)
    assert [name for name, _ in presence_facts(database, device_id)] == ["WentOnline"]
    watch(clock, 45, 85)
    assert presence_facts(database, device_id)[1:] == [("WentDegraded", at(0))]
    watch(clock, 90, 200)
    assert presence_facts(database, device_id)[2:] == [("WentOffline", at(0))]
    assert [beat(store, device_id, seconds) for seconds in (201, 211, 230)] == ["offline"] * 3
    assert [beat(store, device_id, seconds) for seconds in (231, 232)] == ["online"] * 2
    assert presence_facts(database, device_id)[3:] == [("WentOnline", at(231))]
    assert row(database, device_id)[0] == "online"


def test_a_village_that_was_down_itself_loses_no_device(
    store: PresenceStore, service: DeviceRegistryService, database: Database
) -> None:
    device_id = enrol(service)
    beat(store, device_id, 0)
    watch(PresenceClock(store), 3_600, 3_640)
    paused = PresenceClock(store)
    paused.tick(at(3_640))
    watch(paused, 3_700, 3_740)
    assert [name for name, _ in presence_facts(database, device_id)] == ["WentOnline"]
    watch(paused, 3_745, 3_745)
    assert presence_facts(database, device_id)[1:] == [("WentDegraded", at(0))]


def test_a_heartbeat_whose_sequence_has_not_risen_is_refused_and_changes_nothing(
    store: PresenceStore, service: DeviceRegistryService, log: EventLog, database: Database
) -> None:
    device_id = enrol(service)
    send(store, device_id, 7, latency_ms=10)
    head, before = log.head(), row(database, device_id)
    for sequence in (7, 6, 0, -5):
        with pytest.raises(HeartbeatReplayed):
            send(store, device_id, sequence, latency_ms=9_999, now=at(100))
    assert (log.head(), row(database, device_id)) == (head, before)
    clock = PresenceClock(store)
    watch(clock, 0, 45)
    assert [name for name, _ in presence_facts(database, device_id)] == ["WentOnline", "WentDegraded"]


@given(beats=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_new_key_begins_a_sequence_of_its_own_and_no_heartbeat_counts_twice_or_after_a_newer_key(
    store: PresenceStore, service: DeviceRegistryService, beats: list[tuple[int, int]]
) -> None:
    device_id, last = enrol(service), (-1, 0)
    for key_number, sequence in beats:
        if (key_number, sequence) > last:
            send(store, device_id, sequence, key_number=key_number)
            last = (key_number, sequence)
        else:
            with pytest.raises(HeartbeatReplayed):
                send(store, device_id, sequence, key_number=key_number)


def test_whoever_has_a_devices_old_key_cannot_shut_it_out_by_the_greatest_sequence(
    store: PresenceStore, service: DeviceRegistryService
) -> None:
    device_id = enrol(service)
    send(store, device_id, MAX_SEQUENCE)
    assert send(store, device_id, 1, key_number=1) == "online"
    with pytest.raises(HeartbeatReplayed):  # a process that has not heard of the new key yet lets the old one through
        send(store, device_id, MAX_SEQUENCE)
    assert send(store, device_id, 2, key_number=1) == "online"


def test_of_the_same_heartbeat_sent_by_many_threads_one_counts(
    store: PresenceStore, service: DeviceRegistryService, database: Database
) -> None:
    device_id = enrol(service)
    start = threading.Barrier(8)

    def sends(_: int) -> bool:
        start.wait()
        try:
            send(store, device_id, 1)
        except HeartbeatReplayed:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(sends, range(8))) == 1
    assert len(presence_facts(database, device_id)) == 1


def test_heartbeats_and_two_clocks_at_once_leave_alternating_facts_and_an_agreeing_row(
    store: PresenceStore, service: DeviceRegistryService, log: EventLog, database: Database
) -> None:
    device_id = enrol(service)

    def beats() -> None:
        for step in range(40):
            beat(store, device_id, 100 + step)

    def ticks() -> None:
        # Every heartbeat is 50 s old for these clocks, so they fight over each of them.
        for step in range(80):
            now = at(150 + step // 2)
            silence = Silence.at(now, watching_since=NOW)
            for silent in store.mark_silent(silence, limit=10):
                store.settle_silent(silent, silence, now)

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(beats), threads.submit(ticks), threads.submit(ticks)]:
            done.result()
    for seconds in (300, 320, 340):
        beat(store, device_id, seconds)
    names = [name for name, _ in presence_facts(database, device_id)]
    assert all(first != second for first, second in pairwise(names))
    assert row(database, device_id)[0] == log.load(Device, device_id).presence == "online"


def test_the_latency_class_is_recorded_when_the_average_has_left_it_for_a_minute(
    store: PresenceStore, service: DeviceRegistryService, log: EventLog, database: Database
) -> None:
    device_id = enrol(service)
    beat(store, device_id, 0, 40)
    assert log.load(Device, device_id).latency_ms == 50
    head = log.head()
    for seconds in range(1, 20):
        beat(store, device_id, seconds, 45)
    assert log.head() == head
    for seconds in range(20, 80, 10):
        beat(store, device_id, seconds, 100)
    assert log.head() == head
    beat(store, device_id, 80, 100)
    assert log.load(Device, device_id).latency_ms == 100
    assert row(database, device_id)[0::2] == ("online", 100)
    for seconds in range(81, 99):
        beat(store, device_id, seconds)
    assert log.head() == head + 1


class Died(Exception):
    """The process ended here."""


class MortalRegistry(DeviceRegistryService):
    """The real registry in a process that may die just before or just after it has recorded."""

    dies = ""

    def device_went_online(self, *, device_id: UUID, seen_at: datetime) -> Receipt:
        return self._mortal(
            lambda: super(MortalRegistry, self).device_went_online(device_id=device_id, seen_at=seen_at)
        )

    def device_went_degraded(self, *, device_id: UUID, seen_at: datetime) -> Receipt:
        return self._mortal(
            lambda: super(MortalRegistry, self).device_went_degraded(device_id=device_id, seen_at=seen_at)
        )

    def device_went_offline(self, *, device_id: UUID, last_seen_at: datetime) -> Receipt:
        return self._mortal(
            lambda: super(MortalRegistry, self).device_went_offline(device_id=device_id, last_seen_at=last_seen_at)
        )

    def _mortal(self, record: Callable[[], Receipt]) -> Receipt:
        if self.dies == "before":
            raise Died
        receipt = record()
        if self.dies == "after":
            raise Died
        return receipt


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["beat", "silence"]), st.sampled_from(["", "before", "after"]), st.sampled_from([50, 100])
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, ends_with_a_beat=st.booleans())
def test_wherever_the_process_dies_the_next_heartbeat_or_tick_makes_row_and_log_agree(
    database: Database, log: EventLog, steps: list[tuple[str, str, int]], ends_with_a_beat: bool
) -> None:
    registry = MortalRegistry(log)
    registry.dies = ""
    store = PresenceStore(database, registry)
    device_id = enrol(registry)
    clock, now = PresenceClock(store), 0
    for act, registry.dies, seconds in steps:
        try:
            if act == "beat":
                now += 1
                beat(store, device_id, now)
            else:
                for _ in range(0, seconds, 5):
                    now += 5
                    clock.tick(at(now))
        except Died:
            clock = PresenceClock(store)
    registry.dies = ""
    if ends_with_a_beat:
        for seconds in range(1, 42, 10):
            beat(store, device_id, now + seconds)
    elif all(act == "silence" for act, _, _ in steps):
        return  # it has never been seen
    else:
        watch(clock, now + 5, now + 200)
    device = log.load(Device, device_id)
    assert row(database, device_id)[0] == device.presence == ("online" if ends_with_a_beat else "offline")
    names = [name for name, _ in presence_facts(database, device_id)]
    assert all(first != second for first, second in pairwise(names))


def test_a_whole_fleet_that_falls_silent_is_settled_tick_by_tick(
    store: PresenceStore, service: DeviceRegistryService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.presence_clock.MAX_PER_TICK", 3)
    devices = [enrol(service) for _ in range(7)]
    for device_id in devices:
        beat(store, device_id, 0)
    clock = PresenceClock(store)
    watch(clock, 0, 40)
    assert [clock.tick(at(50)) for _ in range(4)] == [3, 3, 1, 0]
    assert {row(database, device_id)[0] for device_id in devices} == {"degraded"}


MOMENTS = st.lists(st.sampled_from([5, 10, 20, 30, 40, 45, 50, 90, 120]), max_size=12)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gaps=MOMENTS)
def test_however_heartbeats_come_a_fact_is_recorded_only_of_what_has_lasted(
    database: Database, log: EventLog, gaps: list[int]
) -> None:
    registry = DeviceRegistryService(log)
    store, device_id = PresenceStore(database, registry), enrol(registry)
    clock, beats = PresenceClock(store), [0, *accumulate(gaps)]
    changes: list[tuple[str, int]] = []
    for now in range(0, beats[-1] + 200, 5):
        clock.tick(at(now))
        answered = beat(store, device_id, now) if now in beats else None
        known = [name for name, _ in presence_facts(database, device_id)]
        assert answered is None or known[-1] == f"Went{answered.title()}"
        changes += [(name, now) for name in known[len(changes) :]]
    assert changes[0] == ("WentOnline", 0)
    assert changes[-1][0] == "WentOffline"
    for (before, then), (name, now) in pairwise(changes):
        assert before != name
        assert now - then >= 30
        last = max(moment for moment in beats if moment <= now)
        if name == "WentOnline":
            steady = [moment for moment in beats if now - 30 <= moment <= now]
            earlier = max(moment for moment in beats if moment <= now - 30)
            assert all(second - first < 45 for first, second in pairwise([earlier, *steady]))
        else:
            last = max(moment for moment in beats if moment < now)
            assert now - last >= (45 if name == "WentDegraded" else 90)
