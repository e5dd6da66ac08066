"""Starts the process of a job, watches its limits, and ends it with all that belongs to it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from domain.marketplace.job import FAILED, SUCCEEDED
from domain.marketplace.work import JobSpec
from workers.device_agent.jobs.process import NO_MEMORY, RESULT, SPEC, TOO_MUCH, UNCONFINED, UNFIT

_START = """import sys
sys.path[:] = sys.argv[2:]
from workers.device_agent.jobs.process import main
main(int(sys.argv[1]))"""
_REASONS = {UNFIT: "unfit", NO_MEMORY: "memory_limit", TOO_MUCH: "output_limit", UNCONFINED: "sandbox_unavailable"}


@dataclass(frozen=True)
class Ending:
    """How a job ended: its result as JSON, or the reason why there is none; times in ms."""

    outcome: str
    reason: str
    used_ms: int
    wall_ms: int
    result: bytes | None = None


class Sandbox:
    """One job in a folder of its own that holds its inputs. Start it from a thread that outlives it (pdeathsig)."""

    def __init__(self, spec: JobSpec, folder: Path) -> None:
        self._spec, self._folder = spec, folder
        (folder / SPEC).write_bytes(msgspec.json.encode(spec))
        (folder / RESULT).unlink(missing_ok=True)
        root = str(Path(__file__).resolve().parents[3])
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, str(os.getpid()), root, *filter(None, sys.path)],
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.used_ms = 0
        self._reason: str | None = None
        self._rests_since: float | None = None
        self._rested_s = 0.0

    def poll(self) -> Ending | None:
        """How it ended, or None while it runs within its limits."""
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if pid == 0:
            self._watch()
            return None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._use(usage.ru_utime + usage.ru_stime)
        return self._ending(self._process.returncode)

    def rest(self, *, resting: bool) -> None:
        """Let it stand still, or go on; its wall time stands still meanwhile."""
        if self._process.returncode is not None or resting == (self._rests_since is not None):
            return
        os.killpg(self._process.pid, signal.SIGSTOP if resting else signal.SIGCONT)
        now = time.monotonic()
        if self._rests_since is not None:
            self._rested_s += now - self._rests_since
        self._rests_since = now if resting else None

    def kill(self, reason: str) -> None:
        """End it now, for a reason."""
        if self._process.returncode is None:
            self._reason = self._reason or reason
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it if it still runs, and remove its folder."""
        self.kill("crashed")
        if self._process.returncode is None:
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _wall_ms(self) -> int:
        until = time.monotonic() if self._rests_since is None else self._rests_since
        return round((until - self._started - self._rested_s) * 1_000)

    def _watch(self) -> None:
        times = psutil.Process(self._process.pid).cpu_times()
        self._use(times.user + times.system)
        if self.used_ms > self._spec.limits.cpu_ms:
            self.kill("cpu_limit")
        elif self._wall_ms > self._spec.limits.wall_ms:
            self.kill("wall_limit")

    def _use(self, cpu_s: float) -> None:
        """Processor time, and never more of it than time has passed."""
        self.used_ms = max(self.used_ms, min(round(cpu_s * 1_000), self._wall_ms))

    def _ending(self, code: int) -> Ending:
        wall_ms = self._wall_ms
        if self._reason is None and code == 0:
            result = (self._folder / RESULT).read_bytes()
            return Ending(SUCCEEDED, "", self.used_ms, wall_ms, result)
        known = "cpu_limit" if code == -signal.SIGXCPU else _REASONS.get(code, "crashed")
        return Ending(FAILED, self._reason or known, self.used_ms, wall_ms)
