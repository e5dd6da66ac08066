"""Benchmark evidence: signed by its device, possible, fresh, and a bound on what may be declared."""

from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.device_registry.device import Device
from domain.device_registry.evidence import (
    METHODS,
    CapabilitiesBeyondEvidence,
    Evidence,
    EvidenceSignatureInvalid,
    EvidenceTimeInvalid,
    Measurement,
    MeasurementImpossible,
    MeasurementMethodUnknown,
    checked_evidence,
)
from domain.device_registry.status import DeviceSuspended
from domain.kernel import Refusal
from tests.devices import NOW, Applicant, enrolled_device, some_capabilities

MINUTE = timedelta(minutes=1)


def measurement(**changes: Any) -> Measurement:
    usual: dict[str, Any] = {"method": "matmul-f32", "version": 1, "value": 12_000, "measured_at": NOW}
    return Measurement(**usual | changes)


def evidence(*measurements: Measurement, **changes: Any) -> Evidence:
    usual: dict[str, Any] = {
        "cpu_cores": 4, "ram_mb": 4_096, "measurements": list(measurements) or [measurement()],
    }  # fmt: skip
    return Evidence(**usual | changes)


def prove(device: Device, applicant: Applicant, told: Evidence, *, now: Any = NOW) -> None:
    device.prove(told, applicant.signed(told), now)


@pytest.fixture
def applicant() -> Applicant:
    return Applicant()


@pytest.fixture
def device(applicant: Applicant) -> Device:
    return enrolled_device(applicant)


def test_what_a_device_signed_is_kept_and_bounds_what_it_declares(device: Device, applicant: Applicant) -> None:
    prove(device, applicant, evidence())
    device.change_capabilities(some_capabilities(compute_score=15_000))
    for beyond in ({"cpu_cores": 5}, {"ram_mb": 4_097}, {"compute_score": 15_001}):
        with pytest.raises(CapabilitiesBeyondEvidence):
            device.change_capabilities(some_capabilities(**beyond))
    device.change_capabilities(some_capabilities(compute_score=900_000, benchmark_id="gpu-v7"))
    later = NOW + MINUTE
    grown = evidence(measurement(measured_at=later), cpu_cores=8, ram_mb=8_192)
    prove(device, applicant, grown, now=later)
    device.change_capabilities(some_capabilities(cpu_cores=8, ram_mb=8_192))


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        *((MeasurementImpossible, evidence(measurement(value=value))) for value in (-1, 0, 10_000_001, 2**64, True)),
        (MeasurementImpossible, evidence(measurement(method="disk-write", value=200_001))),
        (MeasurementImpossible, evidence(cpu_cores=4_097)),
        (MeasurementImpossible, evidence(cpu_cores=-4)),
        (MeasurementImpossible, evidence(ram_mb=2**63)),
        (MeasurementMethodUnknown, evidence(measurements=[])),
        (MeasurementMethodUnknown, evidence(measurement(), measurement(value=1))),
        (MeasurementMethodUnknown, evidence(measurement(version=2))),
        (MeasurementMethodUnknown, evidence(measurement(method="dreams"))),
        (EvidenceTimeInvalid, evidence(measurement(measured_at=NOW + 6 * MINUTE))),
        (EvidenceTimeInvalid, evidence(measurement(measured_at=NOW - timedelta(days=1, seconds=1)))),
    ],
)
def test_impossible_unknown_and_mistimed_evidence_is_refused_by_name(
    refusal: type[Refusal], told: Evidence, device: Device
) -> None:
    with pytest.raises(refusal):
        device.prove(told, "", NOW)
    assert device.evidence is None


def test_evidence_that_another_key_signed_or_that_was_altered_or_told_before_is_refused(
    device: Device, applicant: Applicant
) -> None:
    told = evidence()
    signature = applicant.signed(told)
    stranger = Applicant(code=applicant.code).signed(told)
    altered = msgspec.structs.replace(told, ram_mb=4_097)
    for wrong in (partial(device.prove, told, stranger), partial(device.prove, told, "?")):
        with pytest.raises(EvidenceSignatureInvalid):
            wrong(NOW)
    with pytest.raises(EvidenceSignatureInvalid):
        device.prove(altered, signature, NOW)
    with pytest.raises(EvidenceSignatureInvalid):
        enrolled_device(Applicant(code=applicant.code)).prove(told, signature, NOW)
    device.prove(told, signature, NOW)
    with pytest.raises(EvidenceTimeInvalid):
        device.prove(told, signature, NOW)


def test_a_suspended_device_proves_nothing(device: Device, applicant: Applicant) -> None:
    device.suspend("cheating")
    with pytest.raises(DeviceSuspended):
        prove(device, applicant, evidence())


@given(value=st.integers(), method=st.sampled_from(sorted(METHODS)))
def test_a_measured_value_is_accepted_exactly_within_its_physical_bounds(value: int, method: tuple[str, int]) -> None:
    told = evidence(measurement(method=method[0], version=method[1], value=value))
    if 1 <= value <= METHODS[method].most:
        assert checked_evidence(told, None, NOW).quantities == {METHODS[method].quantity: value}
    else:
        with pytest.raises(MeasurementImpossible):
            checked_evidence(told, None, NOW)
