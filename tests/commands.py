"""`village WORDS` in tests, forked from a process that has imported it: to import takes longer than most commands."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
END_S = 90

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["tests.commands", "domain.topics", "infrastructure.event_store", "projections.catalogue"]
    + [f"cli.{path.stem}" for path in (ROOT / "cli").glob("*.py") if not path.stem.startswith(("_", "demo"))]
)


class Command:
    """A process of its own, started at once; what it reads from its standard input is all there from the beginning."""

    def __init__(self, *words: str, env: Mapping[str, str] | None = None, stdin: str = "") -> None:
        self.words = words
        self._folder = TemporaryDirectory(prefix="village-command-")
        self._files = [Path(self._folder.name) / name for name in ("in", "out", "err")]
        for file, text in zip(self._files, (stdin, "", ""), strict=True):
            file.write_text(text)
        given = dict(os.environ if env is None else env)
        self._process = _FORKS.Process(
            target=_run, args=(words, given, [str(file) for file in self._files]), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """On its standard output, by now."""
        return self._files[1].read_text()

    @property
    def complained(self) -> str:
        """On its standard error, by now."""
        return self._files[2].read_text()

    def send(self, number: signal.Signals) -> None:
        """Nothing happens to one that has ended."""
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = END_S) -> int:
        """Its exit code, negative for a signal; one that does not end in time is killed, and told as TimeoutError."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(5)
            raise TimeoutError(f"village {' '.join(self.words)} does not end: {self.complained}")
        return self._process.exitcode

    def stop(self) -> int:
        """Asked to, as by an operator."""
        self.send(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """kill -9; returns when it is gone."""
        self._process.kill()
        self._process.join(END_S)


def village(*words: str, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Runs `village WORDS` to its end."""
    command = Command(*words, env=env)
    return subprocess.CompletedProcess(words, command.wait(), command.said, command.complained)


def _run(words: Sequence[str], env: Mapping[str, str], files: Sequence[str]) -> None:
    from cli.main import app

    for number, (path, how) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        os.dup2(os.open(path, how | os.O_APPEND), number)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    app(list(words), prog_name="village")
