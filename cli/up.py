"""`village up`: the whole village on this machine, supervised by one process."""

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import structlog

from cli import contexts
from cli.children import Child, LogFile
from cli.compose import WORKERS
from cli.errors import CommandFailed
from infrastructure import login_codes
from infrastructure.database import Database, migrate
from infrastructure.embedded.nats import EmbeddedNats
from infrastructure.embedded.place import HomeLock, ServerFailed, account_for, make_home, write_private
from infrastructure.embedded.postgres import EmbeddedPostgres
from infrastructure.settings import Settings

# The aggregator takes seconds of both cores to load torch, and has nothing to do before the first round is sealed.
LATE: Final = tuple(name for name in WORKERS if name == "aggregator")
EARLY: Final = ("api", *(name for name in WORKERS if name not in LATE))
READY_TIMEOUT_S: Final = 60.0
WATCH_S: Final = 0.2
SERVER_STARTS: Final = 5
"""How often a server that ended is started before the village gives up."""
# All of the village stops within ten seconds: its processes first, then the servers they use.
STOP_CHILDREN_S: Final = 8.5

log = structlog.get_logger("supervisor")


class NotReady(CommandFailed):
    """The village did not come up in time; the message says what it lacks."""


class Supervisor:
    """Runs the servers and the processes of one home. Use it from the main thread only.

    `start` returns when the API is ready; `run` returns when `stopping` is set; `stop` leaves no process behind.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = threading.Event()
        self._postgres: EmbeddedPostgres | None = None
        self._nats: EmbeddedNats | None = None
        self._environment: dict[str, str] = {}
        self._children: list[Child] = []
        self._ends = ExitStack()

    @property
    def url(self) -> str:
        """Where the API answers; raises FileNotFoundError before it does."""
        return self._url_file.read_text().strip()

    @property
    def database_url(self) -> str:
        """The database in use, ours or the given one."""
        return self._environment["VILLAGE_DATABASE_URL"]

    @property
    def _url_file(self) -> Path:
        return self.settings.home / "api.url"

    def start(self) -> None:
        """Starts everything and waits until the API is ready.

        Raises ContextUnknown, ContextLacking, HomeInUse, ServerFailed, NotReady, ChildFailed or
        psycopg.OperationalError; nothing is left running.
        """
        contexts.chosen(self.settings)
        try:
            home = self.settings.home
            make_home(home, account_for(home / "postgres", self.settings.server_user))
            lock = HomeLock(home / "supervisor.lock")
            lock.acquire()
            self._ends.callback(lock.release)
            for name in ("api.url", "database.url", "nats.url"):
                (home / name).unlink(missing_ok=True)
                self._ends.callback((home / name).unlink, missing_ok=True)
            self._environment = {**os.environ, **self._start_servers(home)}
            migrate(self.database_url)
            self._start_children(home / "logs", EARLY)
            self._wait_until_ready()
            self._start_children(home / "logs", LATE)
        except BaseException:
            self.stop()
            raise

    def run(self) -> None:
        """Keeps all running until `stopping` is set; raises ChildFailed or ServerFailed when it cannot."""
        while not self.stopping.wait(WATCH_S):
            self._watch()

    def stop(self) -> None:
        """Stops every process within 10 s, the servers last."""
        self.stopping.set()
        until = time.monotonic() + STOP_CHILDREN_S
        for child in self._children:
            child.ask_to_stop()
        try:
            for child in self._children:
                child.ensure_stopped(until)
        finally:
            self._children = []
            self._ends.close()

    def pids(self) -> dict[str, int | None]:
        """The processes by name, None for one that is down."""
        servers = {"postgres": self._postgres, "nats": self._nats}
        return {name: server.pid for name, server in servers.items() if server is not None} | {
            child.name: child.pid for child in self._children
        }

    def _start_servers(self, home: Path) -> dict[str, str]:
        """Starts the servers that are not given, and answers where both are, as settings."""
        given = self.settings
        if given.database_url is None:
            self._postgres = EmbeddedPostgres(home, user=given.server_user)
            self._ends.callback(self._postgres.stop)
            self._postgres.start()
            write_private(home / "database.url", f"{self._postgres.url}\n", None)
        if given.nats_url is None:
            self._nats = EmbeddedNats(home, user=given.server_user, port=given.nats_port)
            self._ends.callback(self._nats.stop)
            self._nats.start()
            write_private(home / "nats.url", f"{self._nats.url}\n", None)
        return {
            "VILLAGE_HOME": str(home),
            "VILLAGE_CONTEXTS": ",".join(given.contexts),
            "VILLAGE_DATABASE_URL": _url(self._postgres, given.database_url),
            "VILLAGE_NATS_URL": _url(self._nats, given.nats_url),
        }

    def _start_children(self, logs: Path, names: Sequence[str]) -> None:
        for name in contexts.workers(self.settings, names):
            words = ["api"] if name == "api" else ["worker", name]
            child = Child(name, words, LogFile(logs / f"{name}.log"), vital=not contexts.is_of_a_context(name))
            self._children.append(child)
            child.start(self._environment)

    def _watch(self) -> None:
        for server in (self._postgres, self._nats):
            if server is not None and server.pid is None:
                log.warning("a server ended", server=type(server).__name__)
                self._start_again(server)
        for child in self._children:
            child.watch(self._environment)

    def _start_again(self, server: EmbeddedPostgres | EmbeddedNats) -> None:
        """What ended it may hit it again while it starts."""
        for left in reversed(range(SERVER_STARTS)):
            try:
                server.start()
                return
            except ServerFailed as error:
                if not left or self.stopping.is_set():
                    raise
                log.warning("a server did not start", server=type(server).__name__, why=str(error))

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + READY_TIMEOUT_S
        lacking = "the API does not answer"
        while time.monotonic() < until and not self.stopping.is_set():
            self._watch()
            try:
                lacking = _not_ready(self.url)
                if not lacking:
                    self._keep_port()
                    return
            except OSError:
                pass
            time.sleep(0.05)
        if not self.stopping.is_set():
            raise NotReady(f"{lacking}: see {self.settings.home / 'logs'}")

    def _keep_port(self) -> None:
        """A restarted API must answer where the first one did, also when the port was chosen by the system."""
        self._environment["VILLAGE_API_PORT"] = self.url.rsplit(":", 1)[1]


def _url(server: EmbeddedPostgres | EmbeddedNats | None, given: object) -> str:
    return server.url if server is not None else given.get_secret_value()  # type: ignore[attr-defined]


def _not_ready(url: str) -> str:
    """Empty when ready, else which checks fail; raises OSError when nothing answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/readyz", timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        checks = json.loads(error.read() or b"{}").get("checks", [])
        return f"not ready: {', '.join(check['name'] for check in checks if not check['ok'])}"


def log_to_stderr(*, as_json: bool) -> None:
    """What the supervisor has to say goes beside what the command prints."""
    last = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # a plain traceback: the default one prints local variables
            last,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def stop_on_signals(stopping: threading.Event) -> None:
    """SIGINT, SIGTERM and a closed terminal ask to stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())


def up(settings: Settings, tell: Callable[[str, Mapping[str, str]], None]) -> None:
    """Runs a village until it is asked to stop. `tell` hears of `ready` (with its url) and `stopped`."""
    supervisor = Supervisor(settings)
    stop_on_signals(supervisor.stopping)
    try:
        supervisor.start()
        if not supervisor.stopping.is_set():
            tell("ready", {"url": supervisor.url, "login_url": login_url(supervisor)})
        supervisor.run()
    finally:
        supervisor.stop()
    tell("stopped", {})


def login_url(supervisor: Supervisor) -> str:
    """A link that makes its first visitor an operator, once, within minutes."""
    with Database(supervisor.database_url, pool_size=1, application="up") as database:
        code = login_codes.create(database.writer, role="operator", subject="operator")
    return f"{supervisor.settings.public_url or supervisor.url}/login?code={code}"
