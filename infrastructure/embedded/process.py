"""An embedded server as a child that dies with us, ends cleanly, and leaves nothing running."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from infrastructure.embedded.place import Account, ServerFailed

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG: Final = 1
POLL_S: Final = 0.02

_libc: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """To be run in a child before it becomes another program: the kernel then tells it when we are gone.

    The kernel means the thread that made the child: make it from one that lives as long as the process.
    """
    parent = os.getpid()

    def set_signal() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:
            os._exit(1)

    return set_signal


def spawn(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    account: Account | None,
    output: Path,
    death_signal: signal.Signals,
) -> subprocess.Popen[bytes]:
    """Starts a server as `account`, in a session of its own, with a small environment, writing to `output`."""
    output.unlink(missing_ok=True)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    if account is not None:
        os.fchown(descriptor, account.uid, account.gid)
    with os.fdopen(descriptor, "wb") as file:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env=small_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            # Runs after the change of account, which would clear it.
            preexec_fn=die_with_parent(death_signal),
            **as_user(account),
        )


def as_user(account: Account | None) -> dict[str, Any]:
    """The arguments of `subprocess` that change to the account."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": [], "umask": 0o077}


def small_environment() -> dict[str, str]:
    """No secret of ours reaches a server's environment."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


def stop(process: subprocess.Popen[bytes], steps: Iterable[tuple[signal.Signals, float]]) -> None:
    """Sends each signal in turn and waits its seconds, then kills; returns when the process is reaped."""
    for number, seconds in steps:
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    if process.poll() is None:
        process.kill()
        process.wait(5)


def processes_in(cwd: Path, names: Iterable[str]) -> list[psutil.Process]:
    """Live processes of these names whose working directory is `cwd`; zombies do not count."""
    wanted, place, found = tuple(names), cwd.resolve(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() in wanted and Path(process.cwd()) == place:
                found.append(process)
    return found


def end_leftovers(cwd: Path, name: str, *, first: int | None, steps: Iterable[tuple[signal.Signals, float]]) -> None:
    """Ends what an earlier life of this home left running: process `first` gently, then all that remain."""
    left = processes_in(cwd, [name])
    if not left:
        return
    log.warning("Stopping %s left running in %s by a village that died", name, cwd)
    for number, seconds in [*steps, (signal.SIGKILL, 5.0)]:
        leader = [process for process in left if process.pid == first]
        for process in leader or left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        until = time.monotonic() + seconds
        while left and time.monotonic() < until:
            time.sleep(POLL_S)
            left = processes_in(cwd, [name])
        if not left:
            return
    raise ServerFailed(f"Could not end {name} left running in {cwd}")


def tail(path: Path, lines: int = 12) -> str:
    """The end of a log, for an error message."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
