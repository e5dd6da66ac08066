"""A desk of the device registry: a running API on a log of its own, and the means to be anybody at it."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import httpx2
import msgspec
import pytest

from api import device_registry
from api.app import create_app
from api.edge.context import ApiContext
from api.edge.principals import Tokens
from api.server import listen, server
from cli.edge_ports import EnrolledDevices
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import EventLog
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.http_signatures import DeviceAuth
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from projections.device_registry import Devices
from tests.devices import Applicant
from workers.projector import Projector

REGISTRY = "/v1/device_registry"


@dataclass
class Services:
    """The part of the village these routes command."""

    device_registry: DeviceRegistryService


@dataclass
class Desk:
    """The running API, and the means to be an owner, an applicant or a device at it."""

    client: httpx2.Client
    ctx: ApiContext
    log: EventLog
    tokens: Tokens
    projector: Projector

    def headers(self, owner: UUID | None = None) -> dict[str, str]:
        role, subject = ("operator", "ada") if owner is None else ("member", str(owner))
        return {
            "Authorization": f"Bearer {self.tokens.issue(role=role, subject=subject, expires_in=timedelta(hours=1))}"
        }

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return self.client.post(f"{REGISTRY}/{path}", json=body, **options)

    def claim(self, owner: UUID, **body: Any) -> str:
        answer = self.post("issue_claim", body, headers=self.headers(owner))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["claim_code"])

    def challenge(self) -> str:
        return str(self.post("request_challenge", {}).json()["challenge"])

    def applicant(self, owner: UUID | None = None) -> Applicant:
        """Somebody with a fresh claim and a fresh challenge."""
        return Applicant(code=self.claim(owner or uuid4()), challenge=self.challenge())

    def enrolled(self, owner: UUID | None = None, **changes: Any) -> Applicant:
        applicant = self.applicant(owner)
        answer = self.post("register_device", form(applicant, **changes))
        assert answer.status_code == 200, answer.text
        return applicant

    def beat(self, device: Applicant, sequence: Any, **more: Any) -> httpx2.Response:
        auth = DeviceAuth(device.device_id, device.signing)
        return self.post("heartbeat", {"sequence": sequence, **more}, auth=auth)

    def ask(self, query: str, headers: dict[str, str] | None = None, **variables: Any) -> Any:
        self.projector.run_once()
        body = {"query": query, "variables": variables}
        answer = self.client.post("/graphql", json=body, headers=headers or self.headers())
        assert answer.status_code == 200, answer.text
        return answer.json()


def form(applicant: Applicant, **changes: Any) -> dict[str, Any]:
    """The body of `register_device`, with changes."""
    application = applicant.application()
    return application | {"capabilities": msgspec.to_builtins(application["capabilities"])} | changes


@pytest.fixture
def desk(database: Database, database_url: str, tmp_path: Path) -> Iterator[Desk]:
    log = open_event_log(database_url)
    ctx = ApiContext(
        village=cast(Any, Services(DeviceRegistryService(log))),
        database=database,
        blobs=BlobStore.open(None, home=tmp_path),
        keys=load_keys(tmp_path),
        settings=Settings(home=tmp_path),
        devices=EnrolledDevices(log),
    )
    socket, url = listen("127.0.0.1", 0)
    serving = server(create_app(ctx, [device_registry]))
    thread = threading.Thread(target=serving.run, args=([socket],))
    thread.start()
    ends = time.monotonic() + 60
    while not serving.started and time.monotonic() < ends:
        time.sleep(0.005)
    assert serving.started, "the server did not start"
    projector = Projector(database, [Devices()])
    with httpx2.Client(base_url=url, timeout=60) as client:
        yield Desk(client, ctx, log, Tokens(ctx.keys), projector)
    serving.should_exit = True
    thread.join(60)
    projector.close()
    log.close()
    assert not thread.is_alive(), "the server did not stop"


def assert_problem(desk: Desk, answer: httpx2.Response, code: str, head: int, what: str = "") -> None:
    """The answer is this problem, and nothing was recorded."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["code"] == code, f"{what}: {answer.text}"
    assert problem["status"] == answer.status_code
    assert 400 <= answer.status_code < 500
    assert desk.log.head() == head
