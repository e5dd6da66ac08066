"""A village as `village up` starts it, for benchmarks that measure the whole."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Village:
    """A village that is up, and how many seconds it took until it was ready."""

    process: psutil.Process
    url: str
    ready_s: float

    def child(self, words: str) -> psutil.Process:
        """The process that was started with these words."""
        for child in self.process.children():
            if words in " ".join(child.cmdline()):
                return child
        raise LookupError(words)

    def memory_mb(self, words: str) -> float:
        """Resident memory of the process that was started with these words, in MB."""
        return float(self.child(words).memory_info().rss / 1_000_000)


@contextmanager
def village(home: Path) -> Iterator[Village]:
    """`village up --json` in this home, stopped at the end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VILLAGE_")}
    env = {**kept, "VILLAGE_HOME": str(home), "VILLAGE_API_PORT": "0"}
    began = time.monotonic()
    command = [sys.executable, "-m", "cli.main", "up", "--json"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            yield Village(psutil.Process(process.pid), url, time.monotonic() - began)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
