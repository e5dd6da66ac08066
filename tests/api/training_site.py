"""A running API of tests that trains: real uvicorn, Postgres, blobs and signatures, with workers moved by hand."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import msgspec
import numpy as np
import pytest

from api import blobs, device_registry, federated_learning, privacy
from api.app import create_app
from api.edge.context import ApiContext
from api.edge.principals import Tokens
from api.server import listen, server
from cli.edge_ports import EnrolledDevices
from cli.ports import Participants
from domain.device_registry.service import DeviceRegistryService
from domain.federated_learning.service import FederatedLearningService
from domain.federated_learning.statement import sign, statement
from domain.harvest.service import HarvestService
from domain.kernel import EventLog, new_scope, within
from domain.marketplace.service import MarketplaceService
from domain.monitoring.service import MonitoringService
from domain.privacy.service import PrivacyService
from domain.sagas.coordinate_training import CoordinateTraining
from domain.sagas.deadline import Deadlines
from domain.sagas.operations import SagaOperations
from domain.sagas.spend_privacy import SpendPrivacy
from domain.sagas.village import Village
from domain.tokenomics.service import TokenomicsService
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.http_signatures import DeviceAuth, content_digest_of_sha256
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from projections.catalogue import READ_MODELS
from projections.device_index import DeviceIndex
from projections.federated_learning import Participations
from projections.privacy_budgets import ExhaustedBudgets
from tests.devices import Applicant, enrol
from tests.training import MANIFEST, Arrays, arrays, blob_of, norm_of
from workers.aggregator.worker import Aggregator
from workers.projector import Projector
from workers.saga_runner import SagaRunner

FL = "/v1/federated_learning"
EPSILON = Settings().epsilon_micro
Device = Applicant


@dataclass
class Site:
    """A running API with the workers behind it, moved by hand."""

    url: str
    client: httpx2.Client
    ctx: ApiContext
    log: EventLog
    tokens: Tokens
    projector: Projector
    sagas: SagaRunner
    aggregator: Aggregator

    def settle(self) -> None:
        """Everything that reacts to the log has reacted."""
        head = -1
        while head != self.log.head():
            head = self.log.head()
            self.projector.run_once()
            self.sagas.run_once()
            self.aggregator.run_once()
        self.projector.run_once()

    def headers(self, owner: UUID | None = None, **more: str) -> dict[str, str]:
        role, subject = ("operator", "ada") if owner is None else ("member", str(owner))
        token = self.tokens.issue(role=role, subject=subject, expires_in=timedelta(hours=1))
        return {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())} | more

    def device(self) -> Device:
        """A device that is online."""
        applicant, registry = Applicant(), self.ctx.village.device_registry
        enrol(registry, applicant)
        with within(new_scope("test")):
            registry.device_went_online(device_id=applicant.device_id, seen_at=datetime.now(UTC))
        return applicant

    def devices(self, count: int) -> list[Device]:
        found = [self.device() for _ in range(count)]
        self.settle()
        return found

    def post(self, path: str, body: Any, owner: UUID | None = None, **more: Any) -> httpx2.Response:
        return self.client.post(f"{FL}/{path}", json=body, headers=self.headers(owner), **more)

    def put(self, data: bytes, *, name: str | None = None, device: Device | None = None) -> httpx2.Response:
        """Upload a blob, as a device or as an operator."""
        blob_hash = name or hashlib.sha256(data).hexdigest()
        path = f"/v1/blobs/{blob_hash}"
        if device is None:
            return self.client.put(path, content=data, headers=self.headers())
        digest = {"Content-Digest": content_digest_of_sha256(blob_hash)}
        return self.client.put(path, content=data, headers=digest, auth=auth(device))

    def start(self, owner: UUID | None = None, **changes: Any) -> UUID:
        answer = self.post("start_training", self.request(**changes), owner)
        assert answer.status_code == 200, answer.text
        return UUID(answer.json()["id"])

    def request(self, **changes: Any) -> dict[str, Any]:
        """The body of `start_training`; its blobs have been uploaded."""
        samples = {"x": np.eye(4, dtype=np.float32), "y": np.array([0, 1, 0, 1])}
        usual: dict[str, Any] = {
            "name": "digits",
            "manifest": msgspec.to_builtins(MANIFEST),
            "base_model_hash": self.uploaded(blob_of(arrays(seed=99))),
            "evaluation_hash": self.uploaded(blob_of(samples)),
            "rounds": 2,
            "strategy": "fedavg",
            "round_policy": {"min_participants": 2, "max_participants": 4, "goal": 3, "timeout_ms": 600_000},
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1},
            "criteria": {"required_frameworks": ["pytorch"]},
            "secure_aggregation": False,
            "epsilon": None,
        }
        return usual | changes

    def uploaded(self, data: bytes, device: Device | None = None) -> str:
        answer = self.put(data, device=device)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["sha256"])

    def assignment(self, device: Device, wait_ms: int = 0) -> dict[str, Any] | None:
        answer = self.client.get(f"{FL}/assignment?wait_ms={wait_ms}", auth=auth(device), timeout=30)
        if answer.status_code == 204:
            return None
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def submit(self, device: Device, body: dict[str, Any]) -> httpx2.Response:
        """Send an update, signed by the device unless it comes with a signature."""
        said = {name: body[name] for name in ("round_id", "blob_hash", "bytes", "examples", "train_ms")}
        body = {"signature": sign(device.signing, statement(device_id=device.device_id, **said))} | body
        headers = {"Idempotency-Key": str(uuid4())}
        return self.client.post(f"{FL}/submit_update", json=body, headers=headers, auth=auth(device))

    def update(
        self, device: Device, round_id: str, seed: int = 1, update: Arrays | None = None, **changes: Any
    ) -> dict[str, Any]:
        """The body of `submit_update`; its update has been uploaded."""
        update = arrays(seed=seed) if update is None else update
        data = blob_of(update)
        return {
            "round_id": round_id,
            "blob_hash": self.uploaded(data, device),
            "bytes": len(data),
            "examples": 10,
            "train_ms": 20,
            "norm": norm_of(update),
        } | changes

    def ask(self, query: str, owner: UUID | None = None, **variables: Any) -> Any:
        body = {"query": query, "variables": variables}
        answer = self.client.post("/graphql", json=body, headers=self.headers(owner))
        assert answer.status_code == 200, answer.text
        return answer.json()


def auth(device: Device) -> DeviceAuth:
    return DeviceAuth(device.device_id, device.signing)


@pytest.fixture
def site(database: Database, database_url: str, tmp_path: Path) -> Iterator[Site]:
    log, store = open_event_log(database_url), BlobStore.open(None, home=tmp_path)
    directory = Participants(DeviceIndex(database), Participations(database), ExhaustedBudgets(database, EPSILON))
    training = FederatedLearningService(log, store, directory)
    village = Village(
        log=log,
        device_registry=DeviceRegistryService(log),
        tokenomics=TokenomicsService(log),
        federated_learning=training,
        marketplace=MarketplaceService(log),
        monitoring=MonitoringService(log, ()),
        deadlines=Deadlines(log),
        sagas=SagaOperations(log),
        privacy=PrivacyService(log),
        harvest=HarvestService(log),
    )
    ctx = ApiContext(
        village=village,
        database=database,
        blobs=store,
        keys=load_keys(tmp_path),
        settings=Settings(home=tmp_path, max_model_size_mb=1),
        devices=EnrolledDevices(log),
    )
    listening, url = listen("127.0.0.1", 0)
    serving = server(create_app(ctx, [blobs, device_registry, federated_learning, privacy]))
    thread = threading.Thread(target=serving.run, args=([listening],))
    thread.start()
    ends = time.monotonic() + 60
    while not serving.started and time.monotonic() < ends:
        time.sleep(0.005)
    assert serving.started, "the server did not start"
    projector = Projector(database, READ_MODELS)
    sagas = SagaRunner(log, database, [CoordinateTraining, SpendPrivacy(village.deadlines, EPSILON)], village)
    aggregator = Aggregator(log, database, training, store)
    with httpx2.Client(base_url=url, timeout=60) as client:
        yield Site(url, client, ctx, log, Tokens(ctx.keys), projector, sagas, aggregator)
    serving.should_exit = True
    thread.join(60)
    for part in (projector, sagas, aggregator, log):
        part.close()
    assert not thread.is_alive(), "the server did not stop"


def assert_problem(site: Site, answer: httpx2.Response, code: str, head: int) -> None:
    """The answer is this problem, and nothing was recorded."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.json()["code"] == code, answer.text
    assert 400 <= answer.status_code < 500
    assert site.log.head() == head
