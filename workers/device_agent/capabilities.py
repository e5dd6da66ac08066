"""What a device can do, measured on the device itself."""

import os
import time

import psutil
import torch

from workers.device_agent.state import Capabilities

BENCHMARK_ID = "matmul-f32-v1"
FRAMEWORKS = ["pytorch"]
CAPABILITIES = ["federated_learning"]

_SIZE = 256
_REPEATS = 15
_SCORE_CHANGE = 0.25
_WORK_GFLOP = 2 * _SIZE**3 / 1e9


def measure_capabilities() -> Capabilities:
    """Memory in MiB, cores this process may use, and the compute score; in the fields of the enrolment.

    Takes some tens of milliseconds on one core.
    """
    return {
        "ram_mb": psutil.virtual_memory().total // 2**20,
        "cpu_cores": usable_cores(),
        "compute_score": compute_score(),
        "frameworks": list(FRAMEWORKS),
        "capabilities": list(CAPABILITIES),
        "benchmark_id": BENCHMARK_ID,
    }


def usable_cores() -> int:
    """Cores this process may run on, which a container or a taskset makes fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return psutil.cpu_count() or 1


def compute_score() -> int:
    """The benchmark `matmul-f32-v1` in milli-units: 1000 is one GFLOP/s of float32 on one thread.

    The fastest of 15 products of two 256 x 256 matrices: what else the machine does should not count.
    """
    left = torch.rand(_SIZE, _SIZE, generator=torch.Generator().manual_seed(1))
    right = left.t().contiguous()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - started)
    return max(1, round(_WORK_GFLOP / min(times) * 1_000))


def differs(before: Capabilities, now: Capabilities) -> bool:
    """Whether the village should be told: anything but the score has changed, or the score by more than a quarter."""
    if {**before, "compute_score": 0} != {**now, "compute_score": 0}:
        return True
    old, new = before.get("compute_score"), now.get("compute_score")
    if not (isinstance(old, int) and isinstance(new, int)):
        return old != new
    return abs(new - old) > _SCORE_CHANGE * old
