"""Measuring again: who is asked, what is compared, and what a false claim or silence costs."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.device_registry.device import Device
from domain.device_registry.evidence import Evidence, EvidenceTimeInvalid, Measurement
from domain.device_registry.remeasurement import (
    ANSWER_WITHIN,
    ONE_IN,
    SERVICES,
    Dispute,
    NothingToRemeasure,
    Remeasurement,
    RemeasurementNotChosen,
    RemeasurementNotDue,
    RemeasurementPending,
    disputes,
    is_chosen,
)
from domain.device_registry.reputation import NEWCOMER_BP, Reputation
from domain.device_registry.service import DeviceRegistryService
from domain.device_registry.status import DeviceSuspended
from domain.kernel import new_scope, within
from infrastructure.event_store import open_event_log
from tests.devices import NOW, Applicant, enrol, some_capabilities

HOUR = timedelta(hours=1)


class Registry:
    """A registry with one device, at a time that the test says."""

    def __init__(self, service: DeviceRegistryService) -> None:
        self.service, self.device, self.now = service, Applicant(), NOW
        enrol(service, self.device)

    def act(self, command: str, **given: Any) -> None:
        with within(new_scope("test", now=self.now)):
            getattr(self.service, command)(device_id=self.device.device_id, **given)

    def prove(self, mflops: int, at: datetime | None = None, memory: int = 7_000) -> None:
        results = [("matmul-f32", 1, mflops), ("memory-copy", 1, memory)]
        evidence = Evidence(4, 4_096, [Measurement(*result, at or self.now) for result in results])
        capabilities = some_capabilities(compute_score=0)
        self.act(
            "update_capabilities",
            capabilities=capabilities, evidence=evidence, signature=self.device.signed(evidence),
        )  # fmt: skip

    def reputation(self, service: str) -> int:
        found = self.service.log.find(Reputation, Reputation.create_id(self.device.device_id, service))
        return NEWCOMER_BP if found is None else found.standing.score_bp

    @property
    def evidence(self) -> Evidence | None:
        return self.service.log.load(Device, self.device.device_id).evidence

    def until(self) -> datetime | None:
        return self.service.log.load(Remeasurement, Remeasurement.create_id(self.device.device_id)).until


@pytest.fixture
def registry(database_url: str) -> Iterator[Registry]:
    log = open_event_log(database_url)
    yield Registry(DeviceRegistryService(log))
    log.close()


def seed_for(device_id: UUID, *, chosen: bool) -> str:
    return next(seed for seed in map(str, range(1_000)) if is_chosen(seed, device_id) is chosen)


def test_what_holds_when_it_is_measured_again_costs_nothing(registry: Registry) -> None:
    registry.prove(12_000)
    registry.act("ask_remeasurement", seed=seed_for(registry.device.device_id, chosen=True))
    assert registry.until() == NOW + ANSWER_WITHIN
    registry.now += HOUR / 2
    registry.prove(6_000)
    assert registry.until() is None
    assert [registry.reputation(service) for service in SERVICES] == [NEWCOMER_BP] * 2
    assert registry.evidence is not None
    assert registry.evidence.quantities["matrix_mflops"] == 6_000


def test_a_claim_that_does_not_hold_is_refuted_and_costs_reputation_where_it_is_chosen_by(registry: Registry) -> None:
    registry.prove(12_000)
    registry.act("ask_remeasurement")
    registry.now += HOUR / 2
    registry.prove(5_999)
    assert all(registry.reputation(service) < NEWCOMER_BP for service in SERVICES)
    assert registry.reputation("harvest") == NEWCOMER_BP
    before = registry.reputation(SERVICES[0])
    registry.now += HOUR
    registry.prove(1)  # nobody asked, and machines change
    assert registry.reputation(SERVICES[0]) == before


def test_silence_costs_the_evidence_and_no_reputation_and_the_claim_is_not_forgotten(registry: Registry) -> None:
    registry.prove(12_000)
    registry.act("ask_remeasurement")
    with pytest.raises(RemeasurementNotDue):
        registry.act("miss_remeasurement")
    registry.now += ANSWER_WITHIN
    registry.act("miss_remeasurement")
    assert registry.evidence is None
    assert registry.reputation(SERVICES[0]) == NEWCOMER_BP
    with pytest.raises(RemeasurementNotDue):
        registry.act("miss_remeasurement")
    with pytest.raises(NothingToRemeasure):
        registry.act("ask_remeasurement")
    registry.now += HOUR
    registry.prove(100)
    assert registry.reputation(SERVICES[0]) < NEWCOMER_BP


def test_who_may_not_be_asked_is_not_asked(registry: Registry) -> None:
    chosen = seed_for(registry.device.device_id, chosen=True)
    with pytest.raises(NothingToRemeasure):
        registry.act("ask_remeasurement", seed=chosen)
    registry.prove(12_000)
    with pytest.raises(RemeasurementNotChosen):
        registry.act("ask_remeasurement", seed=seed_for(registry.device.device_id, chosen=False))
    registry.act("ask_remeasurement", seed=chosen)
    with pytest.raises(RemeasurementPending):
        registry.act("ask_remeasurement")
    registry.now += HOUR / 2
    registry.prove(12_000)
    with pytest.raises(RemeasurementNotChosen):
        registry.act("ask_remeasurement", seed=chosen)  # once is enough
    registry.act("suspend_device", reason="cheating")
    with pytest.raises(DeviceSuspended):
        registry.act("ask_remeasurement")


def test_what_was_measured_before_it_was_asked_for_is_no_answer(registry: Registry) -> None:
    registry.prove(12_000)
    registry.now += HOUR
    registry.act("ask_remeasurement")
    with pytest.raises(EvidenceTimeInvalid):
        registry.prove(12_000, at=registry.now - HOUR / 2)
    assert registry.until() is not None


@given(claimed=st.integers(1, 10**7), measured=st.integers(1, 10**7))
def test_a_claim_is_refuted_exactly_when_less_than_half_of_it_is_measured(claimed: int, measured: int) -> None:
    before, after = (Evidence(4, 4_096, [Measurement("matmul-f32", 1, value, NOW)]) for value in (claimed, measured))
    refuted = [Dispute("matrix_mflops", claimed, measured)] if 2 * measured < claimed else []
    assert disputes(before, after) == refuted


def test_cores_and_memory_are_claims_too_and_what_is_not_measured_again_is_not_disputed() -> None:
    before = Evidence(8, 8_192, [Measurement("disk-write", 1, 900, NOW)])
    after = Evidence(3, 4_095, [Measurement("matmul-f32", 1, 1, NOW)])
    assert disputes(before, after) == [Dispute("cpu_cores", 8, 3), Dispute("ram_mb", 8_192, 4_095)]


def test_each_seed_chooses_about_one_in_seven_and_over_time_everybody() -> None:
    devices = [uuid4() for _ in range(400)]
    seeds = [f"seed {number}" for number in range(200)]
    counts = {device: sum(is_chosen(seed, device) for seed in seeds) for device in devices}
    assert min(counts.values()) > 0
    mean = sum(counts.values()) / len(devices) / len(seeds)
    assert abs(mean - 1 / ONE_IN) < 0.02
