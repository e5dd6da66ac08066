"""The store of samples: a crash between facts and row changes nothing, and a batch that comes twice counts once."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from domain.harvest.decide import Watch, emptied, step
from domain.harvest.policy import HarvestPolicy
from domain.harvest.sample import Sample, SamplesReplayed
from domain.harvest.service import HarvestService
from domain.harvest.session import HarvestSession
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.harvest import SEGMENT_MS, HarvestStore
from tests.harvesting import START, a_sample, trace
from tests.running import asked, in_threads

BATCH = 2


class Shed:
    """One device and its session on a real log; samples come in batches of two, as every ten seconds."""

    def __init__(self, url: str, database: Database) -> None:
        self.log = open_event_log(url)
        self.service = HarvestService(self.log, lambda device_id: UUID(int=1))
        self.store = HarvestStore(database, self.service)
        self.device_id = uuid4()

    def open(self) -> UUID:
        with asked(now=START):
            opened = self.service.start_harvest_session(
                device_id=self.device_id,
                policy=HarvestPolicy(),
                sensors=["battery", "power", "temperature", "cpu", "network"],
            )
        assert opened.id is not None
        return opened.id

    def send(self, session_id: UUID, samples: Sequence[Sample]) -> None:
        now = samples[-1].sampled_at + timedelta(seconds=1)
        self.store.take(session_id=session_id, device_id=self.device_id, samples=samples, now=now)

    def close(self, session_id: UUID) -> HarvestSession:
        with asked(now=START + timedelta(hours=1)):
            self.store.stop(session_id=session_id, device_id=self.device_id, now=START + timedelta(hours=1))
        return self.log.load(HarvestSession, session_id)


@pytest.fixture
def shed(database_url: str, database: Database) -> Iterator[Shed]:
    shed = Shed(database_url, database)
    yield shed
    shed.log.close()


def batches(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    return [samples[at : at + BATCH] for at in range(0, len(samples), BATCH)]


def test_a_trace_sent_in_batches_gives_what_the_fold_over_all_of_it_gives(shed: Shed) -> None:
    samples = trace("phone-warming-up")
    session_id = shed.open()
    for batch in batches(samples):
        shed.send(session_id, batch)
    watch, run_ms, verified_ms = Watch(), 0, 0
    for sample in samples:
        watch, found = step(HarvestPolicy(), watch, sample)
        if found is not None or watch.run_ms >= SEGMENT_MS or sample is samples[-1]:
            run_ms, verified_ms, watch = run_ms + watch.run_ms, verified_ms + watch.duty_ms // 10_000, emptied(watch)
    session = shed.close(session_id)
    assert (session.contribution.run_ms, session.contribution.verified_ms) == (run_ms, verified_ms)
    assert 0 < verified_ms < run_ms


def test_a_crash_after_the_facts_and_before_the_row_counts_no_time_twice(shed: Shed) -> None:
    samples = trace("phone-warming-up")
    session_id = shed.open()
    watch = Watch()
    for batch in batches(samples):
        changes = []
        for sample in batch:
            watch, found = step(HarvestPolicy(), watch, sample)
            if found is not None:
                changes.append((found, watch))
                watch = emptied(watch)
        if changes:  # the process died here: the facts are recorded, the device heard nothing
            with asked(now=batch[-1].sampled_at):
                shed.service.monitor_harvest_conditions(session_id=session_id, changes=changes)
        shed.send(session_id, batch)
    crashed = shed.close(session_id)
    whole = shed.open()
    for batch in batches(samples):
        shed.send(whole, batch)
    assert crashed.contribution.run_ms <= shed.close(whole).contribution.run_ms
    assert crashed.contribution.run_ms > 0


def test_a_batch_that_many_send_at_once_is_taken_once(shed: Shed) -> None:
    session_id = shed.open()
    samples = [a_sample(number) for number in range(1, 13)]
    refused = in_threads(6, lambda _: shed.send(session_id, samples))
    assert [type(refusal) for refusal in refused] == [SamplesReplayed] * 5
    assert shed.close(session_id).contribution.run_ms == 55_000


def test_what_runs_for_long_becomes_a_segment_without_a_transition(shed: Shed) -> None:
    session_id = shed.open()
    for batch in batches([a_sample(number) for number in range(1, 126)]):
        shed.send(session_id, batch)
    assert shed.log.load(HarvestSession, session_id).contribution.run_ms == SEGMENT_MS
