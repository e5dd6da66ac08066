"""The device's measurements of itself."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.device_registry.evidence import METHODS, check_evidence_signature, checked_evidence
from workers.device_agent.benchmarks import measure_evidence, signed
from workers.device_agent.capabilities import compute_score, differs, measure_capabilities, usable_cores


def test_capabilities_are_those_of_this_machine() -> None:
    measured = measure_capabilities()
    assert measured["ram_mb"] == psutil.virtual_memory().total // 2**20
    assert measured["cpu_cores"] == usable_cores() >= 1
    assert measured["frameworks"] == ["pytorch"]


def test_the_benchmark_gives_a_positive_score_of_plausible_size() -> None:
    # From 0.1 GFLOP/s to 10 TFLOP/s of one thread.
    assert 100 <= compute_score() <= 10_000_000


def test_the_evidence_bears_out_the_capabilities_and_is_accepted_as_possible(tmp_path: Path) -> None:
    capabilities, evidence = measure_evidence(tmp_path)
    assert checked_evidence(evidence, None, datetime.now(UTC)) is evidence
    assert evidence.quantities.keys() == {method.quantity for method in METHODS.values()}
    assert evidence.quantities["matrix_mflops"] == capabilities["compute_score"]
    assert list(tmp_path.iterdir()) == []
    device_id, key = uuid4(), Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    check_evidence_signature(public, device_id, evidence, signed(evidence, device_id, key)["signature"])


def test_the_village_is_told_of_a_real_change_and_not_of_noise_in_the_benchmark() -> None:
    before = {**measure_capabilities(), "compute_score": 1_000}
    assert not differs(before, {**before, "compute_score": 1_200})
    assert differs(before, {**before, "compute_score": 2_000})
    assert differs(before, {**before, "ram_mb": 1})
    assert differs({}, before)
