"""What matching knew of devices is told again by the log: at every position the fold answers what the index did."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.device_registry.device import Device
from domain.device_registry.evidence import METHODS, Evidence, Measurement
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import new_scope, within
from domain.marketplace.matching import KnownDevice
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from projections.device_registry import Devices
from projections.offered_devices import known, known_at, positions
from tests.devices import NOW, Applicant, enrol, some_capabilities
from workers.projector import Projector


class Yard:
    """Some devices, what happens to them, and what was known of them after each step."""

    def __init__(self, url: str, database: Database) -> None:
        self.database, self.log = database, open_event_log(url)
        self.registry = DeviceRegistryService(self.log)
        self.projector = Projector(database, [Devices()])
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
        with within(new_scope("test", now=self.now)):
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


steps = st.tuples(st.integers(0, 2), st.sampled_from(["measure", "measure", "forget"]), st.integers(1, 9))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=8))
def test_what_was_known_of_devices_is_told_again_whatever_happened_since(
    yard: Yard, history: list[tuple[int, str, int]]
) -> None:
    learnt = [yard.learn()]
    for step in history:
        yard.do(*step)
        learnt.append(yard.learn())
    for at, found in learnt:
        assert yard.recall(at) == found
