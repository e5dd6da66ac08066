"""The edge as it is served: real Postgres, real event log, real uvicorn on a free port."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api.app import create_app
from api.edge.context import ApiContext
from api.edge.logs import through_standard_library
from api.edge.principals import EnrolledDevice, Tokens
from api.server import listen, server
from domain.kernel.event_log import EventLog
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.http_signatures import DeviceAuth
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from tests.databases import Copies
from tests.devices import Directory
from tests.ledger import Ledger

from . import sample


@dataclass
class Device:
    """A device with its key, known to the directory of the test."""

    device_id: UUID = field(default_factory=uuid4)
    owner_id: UUID = field(default_factory=uuid4)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def auth(self) -> DeviceAuth:
        return DeviceAuth(self.device_id, self.key)


@dataclass
class Edge:
    """A running API and the means to be anybody at it."""

    url: str
    ctx: ApiContext
    log: EventLog
    tokens: Tokens
    enrolled: dict[UUID, EnrolledDevice]
    client: httpx2.Client
    stop: Callable[[], None]

    def enrol(self) -> Device:
        device = Device()
        self.enrolled[device.device_id] = EnrolledDevice(device.key.public_key(), device.owner_id)
        return device

    def token(self, role: str = "operator", subject: str = "ada") -> str:
        return self.tokens.issue(role=role, subject=subject, expires_in=timedelta(hours=1))

    def bearer(self, role: str = "operator", subject: str = "ada") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(role, subject)}"}

    def ask(self, query: str, headers: dict[str, str] | None = None, **variables: Any) -> dict[str, Any]:
        """The JSON answer to a GraphQL query, by default asked by an operator."""
        body = {"query": query, "variables": variables}
        answer = self.client.post("/graphql", json=body, headers=self.bearer() if headers is None else headers)
        assert answer.status_code == 200, answer.text
        return cast(dict[str, Any], answer.json())


@pytest.fixture(autouse=True, scope="session")
def _logs() -> None:
    """Log lines go where pytest captures them."""
    through_standard_library("DEBUG")


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    log = open_event_log(database_url)
    yield log
    log.close()


@pytest.fixture
def rates() -> dict[str, int]:
    """The settings of rates that are not the usual ones."""
    return {}


@pytest.fixture
def edge(database: Database, log: EventLog, tmp_path: Path, rates: dict[str, int]) -> Iterator[Edge]:
    """An API on an empty log of the test's own."""
    with running(database, log, tmp_path, **rates) as edge:
        yield edge


@pytest.fixture(scope="module")
def steady(copies: Copies, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """One API for all tests of a module that count nothing."""
    with (
        copies.one() as url,
        Database(url) as database,
        closing(open_event_log(url)) as log,
        running(database, log, tmp_path_factory.mktemp("home")) as edge,
    ):
        yield edge


@contextmanager
def running(database: Database, log: EventLog, home: Path, **rates: int) -> Iterator[Edge]:
    """An API that answers on a free port."""
    enrolled = Directory()
    ctx = ApiContext(
        village=cast(Any, Ledger(log)),
        database=database,
        blobs=BlobStore.open(None, home=home),
        keys=load_keys(home),
        settings=Settings(home=home, **cast(Any, rates)),
        devices=enrolled,
    )
    socket, url = listen("127.0.0.1", 0)
    serving = server(create_app(ctx, [sample]))
    thread = threading.Thread(target=serving.run, args=([socket],))
    thread.start()

    def stop() -> None:
        serving.should_exit = True

    try:
        ends = time.monotonic() + 60
        while not serving.started and time.monotonic() < ends:
            time.sleep(0.005)
        assert serving.started, "the server did not start"
        with httpx2.Client(base_url=url, timeout=60) as client:
            yield Edge(url, ctx, log, Tokens(ctx.keys), enrolled, client, stop)
    finally:
        stop()
        thread.join(60)
    assert not thread.is_alive(), "the server did not stop"
