"""The device's measurements of itself."""

import psutil

from workers.device_agent.capabilities import compute_score, differs, measure_capabilities, usable_cores


def test_capabilities_are_those_of_this_machine() -> None:
    measured = measure_capabilities()
    assert measured["ram_mb"] == psutil.virtual_memory().total // 2**20
    assert measured["cpu_cores"] == usable_cores() >= 1
    assert measured["frameworks"] == ["pytorch"]


def test_the_benchmark_gives_a_positive_score_of_plausible_size() -> None:
    # From 0.1 GFLOP/s to 10 TFLOP/s of one thread.
    assert 100 <= compute_score() <= 10_000_000


def test_the_village_is_told_of_a_real_change_and_not_of_noise_in_the_benchmark() -> None:
    before = {**measure_capabilities(), "compute_score": 1_000}
    assert not differs(before, {**before, "compute_score": 1_200})
    assert differs(before, {**before, "compute_score": 2_000})
    assert differs(before, {**before, "ram_mb": 1})
    assert differs({}, before)
