"""Where an embedded server lives and whom it runs as: private places that no other account can enter."""

import contextlib
import fcntl
import logging
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

log = logging.getLogger(__name__)

# Where servers started by root keep what their account cannot reach elsewhere.
SYSTEM_DIR: Final = Path("/var/lib/ai-village")
# A socket path has room for 107 bytes on Linux and 103 on macOS.
MAX_SOCKET_PATH: Final = 100


class ServerFailed(Exception):
    """An embedded server did not start, or did not stop; the message ends with what it said last."""


class HomeInUse(Exception):
    """Another village is running in this home."""


@dataclass(frozen=True)
class Account:
    """An unprivileged account of this machine."""

    name: str
    uid: int
    gid: int


def account_for(existing: Path, wanted: str | None) -> Account | None:
    """Whom a server runs as: None = as we do, when we are not root.

    As root: the owner of the data that is there already, else `wanted`, else postgres or nobody.
    """
    if os.geteuid() != 0:
        return None
    if existing.exists() and existing.stat().st_uid != 0:
        return _account(pwd.getpwuid(existing.stat().st_uid))
    for name in [wanted] if wanted else ["postgres", "nobody"]:
        with contextlib.suppress(KeyError):
            account = _account(pwd.getpwnam(name))
            if account.uid != 0:
                return account
    raise ServerFailed(f"No unprivileged account to run a server as: {wanted or 'postgres or nobody'}")


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def make_home(home: Path, account: Account | None) -> None:
    """Makes the village's home, closed to others; the servers' account may pass through but not list it.

    A directory that exists keeps its modes: it may be somebody's.
    """
    if home.is_dir():
        return
    home.mkdir(mode=0o700, parents=True)
    if account is not None:
        os.chown(home, -1, account.gid)
        home.chmod(0o710)


def reachable(path: Path, account: Account | None) -> bool:
    """Whether the account can enter a directory or execute a file: asked of the system, not computed."""
    if account is None:
        return os.access(path, os.X_OK)
    command = ["/usr/bin/test", "-x", str(path)]
    done = subprocess.run(command, user=account.uid, group=account.gid, extra_groups=[], cwd="/", check=False)
    return done.returncode == 0


def staged(program: Path, base: Path, parts: Iterable[Path], account: Account | None) -> Path:
    """The program, or its copy (with all `parts`, as they lie below `base`) where the account can execute it.

    A package installed under root's home is closed to others, and nobody's directory changes its modes for us.
    """
    if reachable(program, account):
        return program
    found = program.stat()
    copy = _system_dir() / f"{program.name}-{found.st_size}-{found.st_mtime_ns}"
    if not copy.exists():
        new = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
        for part in parts:
            _copy(part, new / part.relative_to(base))
        _open_to_all(new)
        try:
            new.rename(copy)
        except OSError:  # another village was faster
            shutil.rmtree(new)
    return copy / program.relative_to(base)


def _copy(part: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if part.is_dir():
        shutil.copytree(part, to, symlinks=True)
    elif part.exists():
        shutil.copy2(part, to)


def _open_to_all(tree: Path) -> None:
    """Everybody may read and execute the copy: it holds nothing but programs."""
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runs else 0o644)


def _system_dir() -> Path:
    SYSTEM_DIR.mkdir(mode=0o711, parents=True, exist_ok=True)
    return SYSTEM_DIR


def own_dir(path: Path, account: Account | None) -> Path:
    """A directory that only the server's account can enter, made if missing.

    As root we work in places that belong to the account, so no link of its making may be followed.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        if account is not None:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    if not _is_private(path, account):
        raise ServerFailed(f"{path} must be a directory of mode 0700 of {'ours' if account is None else account.name}")
    return path


def state_dir(home: Path, name: str, wanted: str | None) -> tuple[Path, Account | None]:
    """The private directory of a server of this home, and whom it runs as.

    It is home/name, unless we are root and the server's account cannot get there: then it is one under
    /var/lib, which home/name.location points to.
    """
    pointer = home / f"{name}.location"
    place = Path(pointer.read_text().strip()) if pointer.exists() else home / name
    account = account_for(place, wanted)
    make_home(home, account)
    if account is not None and not place.exists() and not reachable(home, account):
        place = _system_dir() / f"{name}-{secrets.token_hex(8)}"
        write_private(pointer, f"{place}\n", None)
        log.info("The account %s cannot reach %s: the data is in %s", account.name, home, place)
    return own_dir(place, account), account


def write_private(path: Path, text: str, account: Account | None) -> None:
    """Writes a file of mode 0600, whole or not at all."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    if account is not None:
        os.chown(new, account.uid, account.gid)
    new.replace(path)


def socket_dir(place: Path, account: Account | None, longest_name: str) -> Path:
    """A directory for a unix socket: in `place`, or a private one in the temporary folder if that path is too long."""
    inside = place / "run"
    if len(os.fsencode(inside / longest_name)) <= MAX_SOCKET_PATH:
        return own_dir(inside, account)
    pointer = place / "run.location"
    if pointer.exists():
        known = Path(pointer.read_text().strip())
        if _is_private(known, account):
            return known
    short = Path(tempfile.mkdtemp(prefix="village-", dir="/tmp"))
    if account is not None:
        os.chown(short, account.uid, account.gid)
    write_private(pointer, f"{short}\n", account)
    return short


def _is_private(path: Path, account: Account | None) -> bool:
    """Nobody else may have put this directory there."""
    try:
        found = path.lstat()
    except OSError:
        return False
    owner = os.geteuid() if account is None else account.uid
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and stat.S_IMODE(found.st_mode) == 0o700


class HomeLock:
    """Held as long as a server of this home is ours; the system frees it when we die."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises `HomeInUse` at once when another process holds it."""
        if self._file is not None:
            return
        file = self.path.open("a+")
        self.path.chmod(0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise HomeInUse(f"Another village is running in {self.path.parent}") from error
        self._file = file

    def release(self) -> None:
        """Lets the next one start."""
        if self._file is not None:
            self._file.close()
            self._file = None
