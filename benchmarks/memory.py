"""How much memory the processes of an idle village hold."""

import tempfile
import time
from pathlib import Path

from benchmarks.table import Row, middle
from benchmarks.village import village

SAMPLES = 5
SETTLE_S = 5.0
TARGETS_MB = {"main api": 200.0, "worker projector": 300.0}


def run() -> list[Row]:
    """Resident memory, some seconds after the start, median of samples a second apart."""
    with tempfile.TemporaryDirectory(prefix="village-memory-") as folder:
        Path(folder).chmod(0o711)
        with village(Path(folder) / "home") as up:
            time.sleep(SETTLE_S)
            found: dict[str, list[float]] = {words: [] for words in TARGETS_MB}
            for _ in range(SAMPLES):
                for words, values in found.items():
                    values.append(up.memory_mb(words))
                time.sleep(1)
    return [
        Row(f"memory of {words}, idle", middle(values), "MB", f"< {target:g} MB", middle(values) < target)
        for (words, values), target in zip(found.items(), TARGETS_MB.values(), strict=True)
    ]
