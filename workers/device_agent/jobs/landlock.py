"""Landlock: which files a process may still reach, where the kernel offers it. Source: landlock(7)."""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _TRUNCATE = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 14
_READ = _READ_FILE | _READ_DIR
_OWN = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights over files a version knows; later ones 16."""
_TCP, _SCOPES = 0b11, 0b11
"""Bind and connect, from version 4; abstract sockets and signals, from version 6."""


def version() -> int:
    """The version of Landlock the kernel offers, 0 where it offers none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def restrict(folder: Path, readable: Iterable[Path]) -> bool:
    """Leave this thread, and those it starts, a folder to work in and these to read; False where there is no Landlock.

    The process must have given up new privileges. What does not exist is left out.

    Raises:
        OSError: the kernel offers it and refuses.
    """
    if not (offered := version()):
        return False
    handled = (1 << _RIGHTS.get(offered, 16)) - 1
    attributes = struct.pack("=QQQ", handled, _TCP if offered >= 4 else 0, _SCOPES if offered >= 6 else 0)
    size = 24 if offered >= 6 else 16 if offered >= 4 else 8
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    try:
        _allow(ruleset, folder, _OWN & handled)
        for path in readable:
            if path.exists():
                _allow(ruleset, path, _READ if path.is_dir() else _READ_FILE)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, path: Path, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


def _call(*arguments: object) -> int:
    found = int(_libc().syscall(*arguments))
    if found < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return found


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
