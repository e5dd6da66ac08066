"""What a process gives up before it works for somebody else: network, files, children, other processes, privileges.

Linux only: limits by setrlimit, no new privileges (prctl), a network namespace of its own where the kernel allows one,
a seccomp filter (seccomp(2), filter mode) on the machines whose numbers are known, and Landlock where the kernel offers
it. Where it does not, the process may read what its user may; it just cannot tell anybody.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path

from workers.device_agent.jobs import landlock

_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_THREAD = 0x10000000, 0x40000000, 0x00010000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_FILTER = 1, 22, 38, 2
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _AT_LEAST, _HAS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
_MACHINES = {
    # audit architecture, clone, clone3, and what is refused: sockets, exec, signals, tracing, mounts, namespaces, rings
    "x86_64": (0xC000003E, 56, 435, (41, 42, 43, 44, 46, 49, 50, 53, 57, 58, 59, 62, 101, 165, 272, 288, 307, 308, 310,
                                     311, 321, 322, 424, 425, 438)),
    "aarch64": (0xC00000B7, 220, 435, (198, 199, 200, 201, 202, 203, 206, 211, 221, 129, 117, 40, 97, 242, 269, 268,
                                       270, 271, 280, 281, 424, 425, 438)),
}  # fmt: skip
OPEN_FILES, FILE_BYTES = 256, 1 << 20
_SYSTEM = [
    Path(path)
    for path in (
        "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/proc/cpuinfo", "/proc/meminfo",
        "/sys/devices/system/cpu", "/dev/null", "/dev/urandom", "/dev/zero",
    )
]  # fmt: skip
"""What libraries read."""


class Unconfined(Exception):
    """This machine cannot keep a job from the network."""


def enforced() -> dict[str, str]:
    """By what a job is kept within its limits here, and what it may still reach."""
    files = landlock.version()
    return {
        "limits": "setrlimit",
        "calls": "seccomp" if platform.machine() in _MACHINES else "unfiltered",
        "files": f"landlock {files}" if files else "readable as by the device: this kernel has no Landlock",
    }


def confine(*, cpu_ms: int, memory_mb: int, parent: int, folder: Path) -> None:
    """Give all of it up, for good, while this process still has one thread.

    Args:
        folder: where it may write; besides it reads Python, its libraries and the system's.
        parent: the process this one ends with.

    Raises:
        Unconfined.
    """
    if not sys.platform.startswith("linux"):
        raise Unconfined(sys.platform)
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    seconds = -(-cpu_ms // 1_000)
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (memory_mb << 20, memory_mb << 20),
        resource.RLIMIT_NOFILE: (OPEN_FILES, OPEN_FILES),
        resource.RLIMIT_FSIZE: (FILE_BYTES, FILE_BYTES),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, (soft, hard) in limits.items():
        most = resource.getrlimit(kind)[1]
        fits = (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        resource.setrlimit(kind, fits)
    alone = libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    python = {*filter(None, sys.path), sys.prefix, sys.base_prefix}
    try:
        landlock.restrict(folder, [*map(Path, python), *_SYSTEM])
    except OSError as error:
        raise Unconfined(str(error)) from error
    if not (_filter(libc) or alone):
        raise Unconfined("neither a network namespace nor a filter of system calls")


def _filter(libc: ctypes.CDLL) -> bool:
    known = _MACHINES.get(platform.machine())
    if known is None:
        return False
    code = _program(*known)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    program = Program(len(code) // 8, code)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(program), 0, 0) == 0)


def _program(arch: int, clone: int, clone3: int, refused: tuple[int, ...]) -> bytes:
    """The filter, in classic BPF: another architecture dies, what is refused answers EPERM, and threads may be made."""
    other_abi = 0x40000000  # x32 calls, which have numbers of their own
    steps = [
        (_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR), (_AT_LEAST, 0, 1, other_abi), (_RETURN, 0, 0, _KILL),
        (_EQUAL, 0, 1, clone3), (_RETURN, 0, 0, _REFUSE | _ENOSYS),  # glibc then makes threads with clone
    ]  # fmt: skip
    for number in refused:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE | _EPERM)]
    steps += [
        (_EQUAL, 0, 3, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_HAS, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _REFUSE | _EPERM), (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise Unconfined(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
