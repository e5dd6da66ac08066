"""What matching knew of devices is told again by the log: at every position the fold answers what the index did."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.ports import DeviceOwners
from domain.device_registry.device import Device
from domain.device_registry.evidence import METHODS, Evidence, Measurement
from domain.device_registry.service import DeviceRegistryService
from domain.harvest.device import HarvestDevice
from domain.harvest.policy import HarvestPolicy
from domain.harvest.service import HarvestService
from domain.kernel import Refusal, new_scope, within
from domain.marketplace.matching import KnownDevice
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from projections.device_registry import Devices
from projections.harvest import HarvestSessions
from projections.offered_devices import known, known_at, positions
from tests.devices import NOW, Applicant, enrol, some_capabilities
from tests.harvesting import a_sample, folded
from workers.projector import Projector


class Yard:
    """Some devices, what happens to them, and what was known of them after each step."""

    def __init__(self, url: str, database: Database) -> None:
        self.database, self.log = database, open_event_log(url)
        self.registry = DeviceRegistryService(self.log)
        self.lending = HarvestService(self.log, DeviceOwners(self.log))
        self.projector = Projector(database, [Devices(), HarvestSessions()])
        self.devices = [Applicant() for _ in range(3)]
        for one in self.devices:
            enrol(self.registry, one)
        self.now = NOW

    def close(self) -> None:
        self.projector.close()
        self.log.close()

    def do(self, number: int, act: str, value: int) -> None:
        """Something happens to a device."""
        self.now += timedelta(minutes=1)
        device = self.devices[number]
        with within(new_scope("test", now=self.now)), suppress(Refusal):
            getattr(self, act)(device, value)

    def measure(self, device: Applicant, value: int) -> None:
        methods = list(METHODS)[: 1 + value % len(METHODS)]
        told = Evidence(4, 4_096, [Measurement(*method, value, self.now) for method in methods])
        self.registry.update_capabilities(
            device_id=device.device_id,
            capabilities=some_capabilities(benchmark_id="unknown"),
            evidence=told,
            signature=device.signed(told),
        )

    def forget(self, device: Applicant, value: int) -> None:
        loaded = self.log.load(Device, device.device_id)
        loaded.drop_evidence()
        self.log.record(loaded)

    def come_or_go(self, device: Applicant, value: int) -> None:
        acts: list[Any] = [self.registry.device_went_online, self.registry.device_went_degraded]
        if value % 3 < 2:
            acts[value % 3](device_id=device.device_id, seen_at=self.now)
        else:
            self.registry.device_went_offline(device_id=device.device_id, last_seen_at=self.now)

    def lend(self, device: Applicant, value: int) -> None:
        """Lend the device, or do with its session what value says; a session lacking sensors is rejected."""
        known = self.log.find(HarvestDevice, HarvestDevice.create_id(device.device_id))
        if known is None or known.open_session is None:
            sensors = ["temperature", "cpu", "battery", "power", "network"][value % 2 :]
            self.lending.start_harvest_session(device_id=device.device_id, policy=HarvestPolicy(), sensors=sensors)
        elif value % 3 == 0:
            self.lending.close_session(session_id=known.open_session)
        else:
            samples = [a_sample(number, **{"battery_temp": 60.0} if value % 3 == 1 else {}) for number in range(1, 9)]
            changes = [(found, watch) for _, watch, found in folded(HarvestPolicy(), samples) if found is not None]
            self.lending.monitor_harvest_conditions(session_id=known.open_session, changes=changes)

    def suspend(self, device: Applicant, value: int) -> None:
        act = self.registry.suspend_device if value % 2 else self.registry.reinstate_device
        act(device_id=device.device_id, reason="drill")

    def learn(self) -> tuple[dict[str, int], dict[UUID, KnownDevice]]:
        """What is known now, and since when."""
        self.projector.run_once()
        with self.database.reader.connection() as connection:
            return positions(connection), known(connection, self.ids)

    def recall(self, at: dict[str, int]) -> dict[UUID, KnownDevice]:
        with self.database.reader.connection() as connection:
            return known_at(connection, self.ids, at)

    @property
    def ids(self) -> list[UUID]:
        return [one.device_id for one in self.devices] + [UUID(int=1)]


@pytest.fixture
def yard(database_url: str, database: Database) -> Iterator[Yard]:
    yard = Yard(database_url, database)
    yield yard
    yard.close()


ACTS = ["measure", "forget", "come_or_go", "come_or_go", "lend", "lend", "lend", "suspend"]
steps = st.tuples(st.integers(0, 2), st.sampled_from(ACTS), st.integers(1, 9))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=12))
def test_what_was_known_of_devices_is_told_again_whatever_happened_since(
    yard: Yard, history: list[tuple[int, str, int]]
) -> None:
    learnt = [yard.learn()]
    for step in history:
        yard.do(*step)
        learnt.append(yard.learn())
    for at, found in learnt:
        assert yard.recall(at) == found
