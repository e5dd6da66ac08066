"""The remeasurement clock: a checkpoint of yesterday chooses who measures again today."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from domain.device_registry.evidence import Evidence, Measurement
from domain.device_registry.remeasurement import ANSWER_WITHIN, Remeasurement, is_chosen
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import EventLog, new_scope, within
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from projections.device_registry import Devices
from projections.device_remeasurement import PERIOD, Remeasurements
from tests.devices import NOW, Applicant, enrol, some_capabilities
from workers.projector import Projector
from workers.remeasurement_clock import RemeasurementClock

ROOT = "cm9vdA=="
SEED = f"7 {ROOT}"


class Village:
    """A registry with devices of which one seed chooses some, and a clock over it."""

    def __init__(self, log: EventLog, database: Database) -> None:
        self.service, self.database, self.now = DeviceRegistryService(log), database, NOW
        self.projector = Projector(database, [Devices()])
        self.clock = RemeasurementClock(self.service, Remeasurements(database), lambda: self.now)

    def seal(self, size: int, root: str) -> None:
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO log.checkpoints (size, note, sealed_at) VALUES (%s, %s, %s)",
                (size, f"origin\n{size}\n{root}\n\n- signature\n", self.now),
            )

    def joined(self, *, chosen: bool, measured: bool = True, online: bool = True) -> Applicant:
        device = Applicant()
        while is_chosen(SEED, device.device_id) is not chosen:
            device = Applicant()
        enrol(self.service, device)
        evidence = Evidence(4, 4_096, [Measurement("matmul-f32", 1, 12_000, NOW)])
        with within(new_scope("test", now=self.now)):
            if measured:
                self.service.update_capabilities(
                    device_id=device.device_id,
                    capabilities=some_capabilities(),
                    evidence=evidence,
                    signature=device.signed(evidence),
                )
        with within(new_scope("test", now=self.now)):
            if online:
                self.service.device_went_online(device_id=device.device_id, seen_at=NOW)
        return device

    def tick(self) -> int:
        self.projector.run_once()
        changed = self.clock.tick()
        self.projector.run_once()
        return changed

    def asked(self, device: Applicant) -> Remeasurement | None:
        return self.service.log.find(Remeasurement, Remeasurement.create_id(device.device_id))

    def mflops(self, device_id: UUID) -> int | None:
        with self.database.reader.connection() as connection:
            query = "SELECT matrix_mflops FROM read.devices WHERE device_id = %s"
            ((found,),) = connection.execute(query, (device_id,)).fetchall()
        return None if found is None else int(found)


@pytest.fixture
def village(database_url: str, database: Database) -> Iterator[Village]:
    log = open_event_log(database_url)
    village = Village(log, database)
    yield village
    village.projector.close()
    log.close()


def test_the_seed_of_a_day_asks_the_devices_it_chooses_and_can_reach_once(village: Village) -> None:
    chosen, away = village.joined(chosen=True), village.joined(chosen=True, online=False)
    others = [village.joined(chosen=False), village.joined(chosen=True, measured=False)]
    assert village.tick() == 0  # no checkpoint is older than the day
    village.seal(7, ROOT)
    assert village.tick() == 0
    village.now += PERIOD
    village.seal(9, "bGF0ZXI=")  # of this day: it chooses tomorrow
    assert (village.tick(), village.tick()) == (1, 0)
    asked = village.asked(chosen)
    assert asked is not None
    assert (asked.seed, asked.until) == (SEED, village.now + ANSWER_WITHIN)
    assert [village.asked(other) for other in (away, *others)] == [None] * 3
    with within(new_scope("test", now=village.now)):
        village.service.device_went_online(device_id=away.device_id, seen_at=village.now)
    assert village.tick() == 1
    assert village.asked(away) is not None


def test_who_is_silent_for_an_hour_is_found_by_what_it_measured_no_more(village: Village) -> None:
    device = village.joined(chosen=False)
    with within(new_scope("operator:ada", now=village.now)):
        village.service.ask_remeasurement(device_id=device.device_id)
    village.now += ANSWER_WITHIN - timedelta(seconds=1)
    assert village.tick() == 0
    assert village.mflops(device.device_id) == 12_000
    village.now += timedelta(seconds=1)
    assert (village.tick(), village.tick()) == (1, 0)
    assert village.mflops(device.device_id) is None
