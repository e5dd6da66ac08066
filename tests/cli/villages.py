"""Villages for tests: real processes, as `village up` starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import psutil

ROOT = Path(__file__).resolve().parents[2]
START_S = 90


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Ours without its VILLAGE_* variables, plus these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VILLAGE_")}
    named = {f"VILLAGE_{name.upper()}": value for name, value in settings.items()}
    return {**kept, "VILLAGE_HOME": str(home), "VILLAGE_API_PORT": "0", **named}


def eventually(what: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it comes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if what():
            return True
        time.sleep(0.05)
    return False


def all_gone(processes: Iterable[psutil.Process], seconds: float) -> bool:
    """Whether every one ends in time; a zombie that nobody has asked about yet has ended."""

    def alive(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return eventually(lambda: not any(map(alive, processes)), seconds)


class Running:
    """A village that is up."""

    def __init__(self, process: subprocess.Popen[str], ready: Mapping[str, str]) -> None:
        self.process = process
        self.url = ready["url"]
        self.login_url = ready["login_url"]

    def tree(self) -> list[psutil.Process]:
        """The supervisor and everything it started."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def pid_of(self, words: str) -> int | None:
        """Of the live process that was started with these words; None while there is none."""
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):
                if words in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    return child.pid
        return None

    def await_pid_of(self, words: str) -> int:
        """`pid_of` once there is one: a part that has failed is started again after a pause."""
        until = time.monotonic() + 60
        while (pid := self.pid_of(words)) is None:
            assert time.monotonic() < until, words
            time.sleep(0.05)
        return pid

    def kill(self, words: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signals that process, once there is one; returns when it is started again under another id."""
        killed = self.await_pid_of(words)
        with suppress(ProcessLookupError):
            os.kill(killed, number)
        assert eventually(lambda: self.pid_of(words) not in {None, killed}, 60), words

    def ready(self) -> bool:
        """Whether the API answers and has all it needs."""
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False


@contextmanager
def running(env: Mapping[str, str]) -> Iterator[Running]:
    """`village up --json`, ended at last however the test ends."""
    command = [sys.executable, "-m", "cli.main", "up", "--json"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        tree: list[psutil.Process] = []
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["event"] == "ready"
            found = Running(process, ready)
            tree = found.tree()
            yield found
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            for one in tree:
                if one.is_running() and one.pid != process.pid:
                    one.kill()
