"""Device criteria: their bounds, and every reason why a device does not match."""

from typing import Any

import pytest

from domain.device_registry.criteria import CriteriaInvalid, DeviceCriteria, Mismatch, checked_criteria, mismatches
from domain.device_registry.reputation import NEWCOMER_BP
from tests.devices import device_row


def test_a_device_that_has_exactly_what_is_asked_matches() -> None:
    asked = DeviceCriteria(
        min_ram_mb=4_096,
        min_cpu_cores=4,
        min_compute_score=12_000,
        required_capabilities=["federated_learning"],
        required_frameworks=["pytorch"],
        min_reputation_score={"harvest": NEWCOMER_BP},
        max_latency_ms=50,
        geographic_region="eu-west",
    )
    assert mismatches(checked_criteria(asked), device_row(latency_ms=50)) == []


def test_nothing_asked_means_only_that_the_device_is_there() -> None:
    device = device_row()
    assert mismatches(DeviceCriteria(), device) == []


@pytest.mark.parametrize("measured", [None, 999])
def test_what_was_not_measured_is_as_bad_as_a_measure_that_is_too_low(measured: int | None) -> None:
    asked = DeviceCriteria(min_matrix_mflops=1_000, min_memory_mb_s=1_000, min_disk_mb_s=1_000)
    device = device_row(matrix_mflops=1_000, memory_mb_s=1_000, disk_mb_s=measured)
    (why,) = mismatches(checked_criteria(asked), device)
    assert (why.criterion, why.wanted, why.found) == ("min_disk_mb_s", "1000", str(measured or "not measured"))


@pytest.mark.parametrize(
    ("asked", "device", "why"),
    [
        (DeviceCriteria(), {"status": "suspended"}, Mismatch("status", "active", "suspended")),
        (DeviceCriteria(), {"status": "retired"}, Mismatch("status", "active", "retired")),
        (DeviceCriteria(min_ram_mb=4_097), {}, Mismatch("min_ram_mb", "4097", "4096")),
        (DeviceCriteria(min_cpu_cores=5), {}, Mismatch("min_cpu_cores", "5", "4")),
        (DeviceCriteria(min_compute_score=12_001), {}, Mismatch("min_compute_score", "12001", "12000")),
        (
            DeviceCriteria(required_capabilities=["gpu", "federated_learning", "fp16"]),
            {},
            Mismatch("required_capabilities", "fp16, gpu", "federated_learning"),
        ),
        (DeviceCriteria(required_frameworks=["jax"]), {}, Mismatch("required_frameworks", "jax", "pytorch")),
        (
            DeviceCriteria(min_reputation_score={"harvest": 5_000}),
            {"reputation": {"harvest": 4_999}},
            Mismatch("min_reputation_score", "harvest 5000", "4999"),
        ),
        (
            DeviceCriteria(min_reputation_score={"privacy": 2_501}),
            {},
            Mismatch("min_reputation_score", "privacy 2501", "2500"),
        ),
        (DeviceCriteria(max_latency_ms=20), {"latency_ms": 50}, Mismatch("max_latency_ms", "20", "50")),
        (DeviceCriteria(geographic_region="eu-east"), {}, Mismatch("geographic_region", "eu-east", "eu-west")),
        (DeviceCriteria(), {"presence": "degraded"}, Mismatch("availability_required", "online", "degraded")),
        (DeviceCriteria(min_matrix_mflops=9), {"matrix_mflops": 8}, Mismatch("min_matrix_mflops", "9", "8")),
        (DeviceCriteria(min_memory_mb_s=9), {}, Mismatch("min_memory_mb_s", "9", "not measured")),
        (DeviceCriteria(min_disk_mb_s=9), {"disk_mb_s": 8}, Mismatch("min_disk_mb_s", "9", "8")),
    ],
)
def test_each_criterion_says_what_was_asked_and_what_was_found(
    asked: DeviceCriteria, device: dict[str, Any], why: Mismatch
) -> None:
    assert mismatches(checked_criteria(asked), device_row(**device)) == [why]


@pytest.mark.parametrize("latency_ms", [None, 100])
def test_an_unknown_latency_is_as_bad_as_one_that_is_too_long(latency_ms: int | None) -> None:
    (why,) = mismatches(DeviceCriteria(max_latency_ms=99), device_row(latency_ms=latency_ms))
    assert (why.criterion, why.wanted, why.found) == ("max_latency_ms", "99", str(latency_ms or "unknown"))


@pytest.mark.parametrize(
    "criteria",
    [
        DeviceCriteria(min_ram_mb=-1),
        DeviceCriteria(min_ram_mb=2**60),
        DeviceCriteria(min_cpu_cores=True),
        DeviceCriteria(min_compute_score=10**10),
        DeviceCriteria(max_latency_ms=60_001),
        DeviceCriteria(min_matrix_mflops=-1),
        DeviceCriteria(min_disk_mb_s=10**12),
        DeviceCriteria(required_capabilities=["Ä"]),
        DeviceCriteria(required_frameworks=[f"f{number}" for number in range(33)]),
        DeviceCriteria(min_reputation_score={"gossip": 1}),
        DeviceCriteria(min_reputation_score={"harvest": 10_001}),
        DeviceCriteria(geographic_region=""),
    ],
)
def test_criteria_that_no_device_could_have_are_refused(criteria: DeviceCriteria) -> None:
    with pytest.raises(CriteriaInvalid):
        checked_criteria(criteria)
