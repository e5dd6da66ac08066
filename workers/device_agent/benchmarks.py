"""What a device measures of itself, as evidence that it signs: methods and versions are those of the registry."""

import base64
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.device_registry.evidence import Evidence, Measurement, evidence_text
from workers.device_agent.capabilities import BENCHMARK_ID, measure_capabilities
from workers.device_agent.state import Capabilities

_MB = 1_000_000
_COPIED_MB, _WRITTEN_MB = 64, 8
_COPIES, _WRITES = 4, 2


def measure_evidence(folder: Path) -> tuple[Capabilities, Evidence]:
    """What this machine can do, and how it was measured; takes some tenths of a second, most of them of the disk.

    The compute score is the matrix measurement itself. What cannot be measured (a full disk) is left out.
    """
    at = datetime.now(UTC)
    capabilities = measure_capabilities()
    name, _, version = BENCHMARK_ID.rpartition("-v")
    found = [(name, int(version), _whole(capabilities["compute_score"])), ("memory-copy", 1, memory_mb_s())]
    with suppress(OSError):
        found.append(("disk-write", 1, disk_mb_s(folder)))
    measurements = [Measurement(method, number, value, at) for method, number, value in found]
    cores, ram = _whole(capabilities["cpu_cores"]), _whole(capabilities["ram_mb"])
    return capabilities, Evidence(cpu_cores=cores, ram_mb=ram, measurements=measurements)


def memory_mb_s() -> int:
    """`memory-copy` 1: MB/s of copying 64 MB from one place in memory to another, the fastest of 4."""
    source = torch.ones(_COPIED_MB * _MB // 4)
    target = torch.empty_like(source)
    return _rate(_COPIED_MB, _COPIES, lambda: target.copy_(source))


def disk_mb_s(folder: Path) -> int:
    """`disk-write` 1: MB/s of writing 8 MB to a file of this folder until it is on disk, the fastest of 2.

    Raises OSError.
    """
    content = os.urandom(_WRITTEN_MB * _MB)
    with tempfile.TemporaryFile(dir=folder) as file:

        def write() -> None:
            file.seek(0)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

        return _rate(_WRITTEN_MB, _WRITES, write)


def signed(evidence: Evidence, device_id: UUID, key: Ed25519PrivateKey) -> dict[str, Any]:
    """Evidence as the body of a request, with the device's signature."""
    body: dict[str, Any] = msgspec.to_builtins(evidence)
    return body | {"signature": base64.b64encode(key.sign(evidence_text(device_id, evidence))).decode()}


def _rate(megabytes: int, times: int, work: Callable[[], object]) -> int:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return max(1, round(megabytes / min(taken)))


def _whole(value: int | str | list[str]) -> int:
    assert isinstance(value, int)
    return value
