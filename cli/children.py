"""A village's own processes: started, watched, restarted with growing pauses, and stopped together."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import structlog

from cli.errors import CommandFailed
from infrastructure.embedded.process import die_with_parent

ROOT: Final = Path(__file__).resolve().parents[1]
MAX_BACKOFF_S: Final = 5.0
# A child that has run this long is taken for healthy: its earlier crashes are forgotten.
HEALTHY_S: Final = 30.0
MAX_CRASHES: Final = 10
LOG_BYTES: Final = 10_000_000
LINE_BYTES: Final = 65_536
# What never stays up and is not vital is tried again this often.
LONG_PAUSE_S: Final = 60.0

log = structlog.get_logger("supervisor")


class ChildFailed(CommandFailed):
    """A process crashed again and again; the message ends with the last lines it wrote."""


class LogFile:
    """A child's log: at most two files of 10 MB, the newer one under the plain name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._file = self._open()

    def _open(self) -> IO[bytes]:
        return os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)

    def copy(self, source: IO[bytes]) -> None:
        """Writes down what a child says, until it ends."""
        with contextlib.suppress(OSError, ValueError):
            while line := source.readline(LINE_BYTES):
                if self._file.tell() > LOG_BYTES:
                    self._file.close()
                    self.path.replace(self.path.with_suffix(".log.1"))
                    self._file = self._open()
                self._file.write(line)
        source.close()

    def last_lines(self, number: int = 8) -> str:
        """What the child said last."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-number:])


class Child:
    """One process `village WORDS`. Start it from the main thread: it is told when that thread dies."""

    def __init__(self, name: str, words: Sequence[str], log_file: LogFile, *, vital: bool = True) -> None:
        self.name = name
        self.vital = vital
        self.words = [*words, "--supervised"]
        self.crashes = 0
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._again_at = 0.0

    @property
    def pid(self) -> int | None:
        """While it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self, environment: Mapping[str, str]) -> None:
        """Starts the process; its standard input stays open as long as we live, and it ends when that closes."""
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.main", *self.words],
            env={
                **environment,
                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")])),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        assert self._process.stdout is not None
        name = f"log of {self.name}"
        threading.Thread(target=self._log_file.copy, args=[self._process.stdout], name=name, daemon=True).start()

    def watch(self, environment: Mapping[str, str]) -> None:
        """Starts it again when it has ended, after a pause that doubles with every crash.

        Raises `ChildFailed` when it never stays up and the village cannot be without it.
        """
        if self._process is None or self._process.poll() is None:
            return
        now = time.monotonic()
        if self._again_at == 0.0:
            self.crashes = 1 if now - self._started_at > HEALTHY_S else self.crashes + 1
            given_up = self.crashes > MAX_CRASHES
            if given_up and self.vital:
                raise ChildFailed(f"{self.name} crashed {self.crashes} times:\n{self._log_file.last_lines()}")
            pause = LONG_PAUSE_S if given_up else min(MAX_BACKOFF_S, 0.1 * 2 ** (self.crashes - 1))
            log.warning("a process ended", process=self.name, code=self._process.returncode, restart_in_s=pause)
            self._again_at = now + pause
        if now >= self._again_at:
            self._again_at = 0.0
            self._close_input()
            self.start(environment)

    def ask_to_stop(self) -> None:
        """Asks it to finish what it does and end."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def ensure_stopped(self, until: float) -> None:
        """Waits for its end until then (monotonic seconds), then ends it."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        if self._process.poll() is None:
            log.warning("a process did not stop in time", process=self.name)
            self._process.kill()
            self._process.wait(5)
        self._close_input()
        self._process = None

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


def end_with_supervisor(stopping: threading.Event, grace_s: float = 9.0) -> None:
    """For a child: when the supervisor is gone, stop as if asked to, and end for good after the grace."""

    def watch() -> None:
        # Not through sys.stdin, whose lock a thread may not hold while the process ends.
        with contextlib.suppress(OSError):
            while os.read(0, 64):
                pass
        if not stopping.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=watch, name="supervisor watch", daemon=True).start()
