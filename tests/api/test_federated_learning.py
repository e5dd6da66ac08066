"""Federated learning as its users see it: real uvicorn, Postgres, blobs and signatures, from start to model."""

import hashlib
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx2
import msgspec
import numpy as np
import pytest
from safetensors.numpy import load

from api import blobs, device_registry, federated_learning
from api.app import create_app
from api.edge.context import ApiContext
from api.edge.principals import Tokens
from api.server import listen, server
from cli.edge_ports import EnrolledDevices
from cli.ports import Participants
from domain.device_registry.service import DeviceRegistryService
from domain.federated_learning.service import FederatedLearningService
from domain.kernel import EventLog, new_scope, within
from domain.monitoring.service import MonitoringService
from domain.sagas.coordinate_training import CoordinateTraining
from domain.sagas.deadline import Deadlines
from domain.sagas.operations import SagaOperations
from domain.sagas.village import Village
from domain.tokenomics.service import TokenomicsService
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.http_signatures import DeviceAuth, content_digest_of_sha256
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from projections.catalogue import READ_MODELS
from projections.device_registry import DeviceIndex
from projections.federated_learning import Participations
from tests.api.edge.socket_client import socket as graphql_socket
from tests.devices import Applicant, enrol
from tests.training import MANIFEST, Arrays, arrays, blob_of, norm_of
from workers.aggregator.worker import Aggregator
from workers.projector import Projector
from workers.saga_runner import SagaRunner

FL = "/v1/federated_learning"
PROGRESS = """subscription($session: UUID!, $after: Position) { roundProgress(sessionId: $session, after: $after) {
    position roundId number state selected accepted accuracy loss participants } }"""
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
    directory = Participants(DeviceIndex(database), Participations(database))
    training = FederatedLearningService(log, store, directory)
    village = Village(
        log=log,
        device_registry=DeviceRegistryService(log),
        tokenomics=TokenomicsService(log),
        federated_learning=training,
        monitoring=MonitoringService(log, ()),
        deadlines=Deadlines(log),
        sagas=SagaOperations(log),
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
    serving = server(create_app(ctx, [blobs, device_registry, federated_learning]))
    thread = threading.Thread(target=serving.run, args=([listening],))
    thread.start()
    ends = time.monotonic() + 10
    while not serving.started and time.monotonic() < ends:
        time.sleep(0.005)
    assert serving.started, "the server did not start"
    projector = Projector(database, READ_MODELS)
    sagas = SagaRunner(log, database, [CoordinateTraining], village)
    aggregator = Aggregator(log, database, training, store)
    with httpx2.Client(base_url=url) as client:
        yield Site(url, client, ctx, log, Tokens(ctx.keys), projector, sagas, aggregator)
    serving.should_exit = True
    thread.join(15)
    for part in (projector, sagas, aggregator, log):
        part.close()
    assert not thread.is_alive(), "the server did not stop"


def assert_problem(site: Site, answer: httpx2.Response, code: str, head: int) -> None:
    """The answer is this problem, and nothing was recorded."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.json()["code"] == code, answer.text
    assert 400 <= answer.status_code < 500
    assert site.log.head() == head


def test_a_session_goes_over_http_from_its_start_to_its_last_model(site: Site) -> None:
    owner, devices = uuid4(), site.devices(3)
    session_id = site.start(owner)
    for number in (1, 2):
        site.settle()
        for index, device in enumerate(devices):
            work = site.assignment(device)
            assert work is not None
            assert (work["number"], work["session_id"], work["submitted"]) == (number, str(session_id), False)
            model = site.client.get(f"/v1/blobs/{work['model_hash']}", auth=auth(device))
            assert hashlib.sha256(model.content).hexdigest() == work["model_hash"]
            answer = site.submit(device, site.update(device, work["round_id"], seed=index))
            assert answer.status_code == 200, answer.text
    site.settle()
    query = """query($id: UUID!) { trainingSession(sessionId: $id) { state currentRound completedRounds modelHash
        roundHistory { number state participants accuracy loss durationMs modelHash updates { state examples } } } }"""
    session = site.ask(query, owner, id=str(session_id))["data"]["trainingSession"]
    assert (session["state"], session["currentRound"], session["completedRounds"]) == ("completed", 2, 2)
    first, second = session["roundHistory"]
    assert [(r["number"], r["state"], r["participants"]) for r in (first, second)] == [
        (1, "completed", 3),
        (2, "completed", 3),
    ]
    assert 0 <= second["accuracy"] <= 1
    assert second["loss"] > 0
    assert [update["state"] for update in second["updates"]] == ["aggregated"] * 3
    assert second["modelHash"] == session["modelHash"]
    final = load(site.client.get(f"/v1/blobs/{session['modelHash']}", headers=site.headers()).content)
    mean = np.mean([arrays(seed=index)["0.weight"] for index in range(3)], axis=0, dtype=np.float64)
    np.testing.assert_allclose(final["0.weight"], arrays(seed=99)["0.weight"] + 2 * mean, atol=1e-6)


def test_a_device_that_waits_is_told_the_moment_it_is_selected(site: Site) -> None:
    devices = site.devices(3)
    assert site.assignment(devices[0]) is None
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(site.assignment, device, 15_000) for device in devices]
        time.sleep(0.3)
        session_id = site.start()
        started = time.monotonic()
        site.settle()
        found = [future.result() for future in waiting]
    assert time.monotonic() - started < 5
    assert {str(work and work["session_id"]) for work in found} == {str(session_id)}


def test_a_device_that_has_sent_its_update_waits_for_the_next_round(site: Site) -> None:
    devices = site.devices(3)
    site.start()
    site.settle()
    work = site.assignment(devices[0])
    assert work is not None
    site.submit(devices[0], site.update(devices[0], work["round_id"]))
    site.settle()
    again = site.assignment(devices[0], 200)
    assert again is not None
    assert again["submitted"] is True


# Bad updates: each is refused by its own name, and nothing is recorded.


@pytest.fixture
def work(site: Site) -> tuple[Device, str]:
    """A device with a round to work on."""
    device = site.devices(3)[0]
    site.start()
    site.settle()
    found = site.assignment(device)
    assert found is not None
    return device, str(found["round_id"])


def refused(site: Site, device: Device, body: dict[str, Any], code: str) -> None:
    head = site.log.head()
    assert_problem(site, site.submit(device, body), code, head)


def test_an_update_for_another_round_is_refused(site: Site, work: tuple[Device, str]) -> None:
    device, _ = work
    refused(site, device, site.update(device, str(uuid4())), "round_unknown")
    other = site.start(round_policy={"min_participants": 1, "max_participants": 1, "goal": 1})
    site.settle()
    query = "query($id: UUID!) { rounds(sessionId: $id, first: 1) { edges { node { roundId updates { deviceId } } } } }"
    node = site.ask(query, id=str(other))["data"]["rounds"]["edges"][0]["node"]
    if node["updates"][0]["deviceId"] != str(device.device_id):
        refused(site, device, site.update(device, node["roundId"]), "not_a_participant")


def test_an_update_that_was_never_uploaded_is_refused(site: Site, work: tuple[Device, str]) -> None:
    device, round_id = work
    refused(site, device, site.update(device, round_id, blob_hash="0" * 64), "blob_not_found")


def bad_blobs() -> list[tuple[str, bytes, str]]:
    good = arrays()
    poisoned = arrays()
    poisoned["0.weight"][0, 0] = np.nan
    return [
        ("shape", blob_of(good | {"0.weight": good["0.weight"].T.copy()}), "update_shape_mismatch"),
        ("dtype", blob_of({k: v.astype(np.float16) for k, v in good.items()}), "update_dtype_mismatch"),
        ("tensors", blob_of({k: v for k, v in good.items() if k != "0.bias"}), "update_tensors_mismatch"),
        ("NaN", blob_of(poisoned), "update_not_finite"),
        ("pickled", pickle.dumps(good), "update_not_safetensors"),
        ("cut off", blob_of(good)[:-8], "update_size_mismatch"),
        ("oversize", blob_of(good) + b"\0" * (1 << 20), "update_too_large"),
    ]


@pytest.mark.parametrize(("data", "code"), [(d, c) for _, d, c in bad_blobs()], ids=[n for n, _, _ in bad_blobs()])
def test_an_update_that_is_not_one_of_the_model_is_refused(
    site: Site, work: tuple[Device, str], data: bytes, code: str
) -> None:
    device, round_id = work
    body = site.update(device, round_id, blob_hash=site.uploaded(data, device), bytes=len(data))
    refused(site, device, body, code)


def test_figures_that_are_not_those_of_the_update_are_refused(site: Site, work: tuple[Device, str]) -> None:
    device, round_id = work
    good = site.update(device, round_id)
    refused(site, device, good | {"bytes": good["bytes"] + 1}, "update_size_mismatch")
    refused(site, device, good | {"norm": good["norm"] * 2}, "update_norm_mismatch")
    for field, value in (("examples", 0), ("examples", 1.5), ("train_ms", -1), ("norm", -1), ("extra", 1)):
        refused(site, device, good | {field: value}, "request_invalid")


def test_an_upload_that_is_cut_off_or_of_another_hash_or_too_large_leaves_nothing(
    site: Site, work: tuple[Device, str]
) -> None:
    device, _ = work
    head, data = site.log.head(), blob_of(arrays(seed=7))
    name = hashlib.sha256(data).hexdigest()
    assert_problem(site, site.put(data[:-1] + b"x", name=name, device=device), "blob_hash_mismatch", head)
    assert not site.ctx.blobs.exists(name)
    large = b"\0" * (3 << 20)
    assert_problem(site, site.put(large, device=device), "body_too_large", head)
    assert site.client.get(f"/v1/blobs/{name}", headers=site.headers()).json()["code"] == "blob_not_found"
    assert site.client.put(f"/v1/blobs/{name}", content=data).json()["code"] == "credentials_missing"
    cut_off(site, name, data)
    assert not site.ctx.blobs.exists(name)


def cut_off(site: Site, name: str, data: bytes) -> None:
    """Announce a whole body, send half of it and hang up."""
    address = urlsplit(site.url)
    assert address.hostname is not None
    assert address.port is not None
    head = [f"PUT /v1/blobs/{name} HTTP/1.1", f"Host: {address.netloc}", f"Content-Length: {len(data)}"]
    head += [f"Authorization: {site.headers()['Authorization']}", "", ""]
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall("\r\n".join(head).encode() + data[: len(data) // 2])
        time.sleep(0.2)
    time.sleep(0.3)


def test_a_second_update_and_a_late_update_are_refused(site: Site, work: tuple[Device, str]) -> None:
    device, round_id = work
    assert site.submit(device, site.update(device, round_id)).status_code == 200
    refused(site, device, site.update(device, round_id, seed=2), "update_already_submitted")
    policy = {"min_participants": 3, "max_participants": 3, "goal": 3, "timeout_ms": 150}
    session_id = site.start(round_policy=policy)
    site.settle()
    query = "query($id: UUID!) { rounds(sessionId: $id, first: 1) { edges { node { roundId } } } }"
    late = site.ask(query, id=str(session_id))["data"]["rounds"]["edges"][0]["node"]["roundId"]
    time.sleep(0.2)
    refused(site, device, site.update(device, late), "update_late")


def test_a_round_without_enough_devices_is_refused_and_records_nothing(site: Site) -> None:
    session_id = site.start()
    head = site.log.head()
    answer = site.post("coordinate_training_round", {"session_id": str(session_id)})
    assert_problem(site, answer, "too_few_participants", head)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"secure_aggregation": True}, "secure_aggregation_unavailable"),
        ({"epsilon": 1.0}, "differential_privacy_unavailable"),
        ({"strategy": "krum"}, "strategy_unsupported"),
        ({"criteria": {"required_frameworks": ["tensorflow"]}}, "framework_unsupported"),
        ({"round_policy": {"min_participants": 5, "max_participants": 4}}, "round_policy_invalid"),
        ({"round_policy": {"max_participants": 21}}, "round_policy_invalid"),
        ({"training": {"epochs": 0, "batch_size": 8, "learning_rate": 0.1}}, "training_config_invalid"),
        ({"rounds": 0}, "session_invalid"),
        ({"base_model_hash": "0" * 64}, "blob_not_found"),
        ({"manifest": msgspec.to_builtins(MANIFEST) | {"architecture": "cnn"}}, "architecture_unsupported"),
        ({"manifest": msgspec.to_builtins(MANIFEST) | {"bytes": 1}}, "manifest_invalid"),
        ({"name": ""}, "request_invalid"),
        ({"rounds": "2"}, "request_invalid"),
    ],
)
def test_what_the_village_cannot_train_is_refused_by_name(site: Site, changes: dict[str, Any], code: str) -> None:
    body, head = site.request(**changes), site.log.head()
    assert_problem(site, site.post("start_training", body), code, head)


def test_saying_nothing_of_privacy_asks_for_what_is_not_there(site: Site) -> None:
    body, head = site.request(), site.log.head()
    for name, code in (
        ("secure_aggregation", "secure_aggregation_unavailable"),
        ("epsilon", "differential_privacy_unavailable"),
    ):
        without = {key: value for key, value in body.items() if key != name}
        assert_problem(site, site.post("start_training", without), code, head)


def test_more_sessions_than_the_village_runs_are_refused(site: Site) -> None:
    for _ in range(10):
        site.start()
    body, head = site.request(), site.log.head()
    assert_problem(site, site.post("start_training", body), "too_many_sessions", head)


def test_starting_training_needs_an_idempotency_key_and_starts_once_under_it(site: Site) -> None:
    body, owner = site.request(), uuid4()
    headers = site.headers(owner)
    first, second = (site.client.post(f"{FL}/start_training", json=body, headers=headers).json() for _ in range(2))
    assert first == second
    del headers["Idempotency-Key"]
    answer = site.client.post(f"{FL}/start_training", json=body, headers=headers)
    assert answer.json()["code"] == "idempotency_key_required"


def test_a_session_is_its_owners_to_pause_resume_abandon_and_see(site: Site) -> None:
    owner, stranger = uuid4(), uuid4()
    session_id = site.start(owner)
    site.settle()
    body = {"session_id": str(session_id)}
    for name in ("pause_training", "resume_training", "abandon_training"):
        head = site.log.head()
        assert_problem(site, site.post(name, body, stranger), "forbidden", head)
        assert site.post(name, body, owner).status_code == 200
    assert_problem(site, site.post("pause_training", body, owner), "session_not_running", site.log.head())
    unknown = site.post("pause_training", {"session_id": str(uuid4())}, owner)
    assert_problem(site, unknown, "training_session_unknown", site.log.head())
    site.settle()
    query = "query { trainingSessions(first: 10) { totalCount edges { node { sessionId state } } } }"
    seen = site.ask(query, owner)["data"]["trainingSessions"]
    assert seen["edges"] == [{"node": {"sessionId": str(session_id), "state": "abandoned"}}]
    assert site.ask(query, stranger)["data"]["trainingSessions"]["totalCount"] == 0


def test_the_progress_of_rounds_is_told_live_and_resumes_from_any_position(site: Site) -> None:
    owner, devices = uuid4(), site.devices(3)
    session_id = site.start(owner, rounds=1)
    start = site.log.head()
    site.settle()
    token = site.tokens.issue(role="member", subject=str(owner), expires_in=timedelta(hours=1))
    with graphql_socket(site.url, {"token": token}) as client:
        client.subscribe(PROGRESS, session=str(session_id), after=start)
        for device in devices:
            work = site.assignment(device)
            assert work is not None
            site.submit(device, site.update(device, work["round_id"]))
        site.settle()
        seen = [client.next()["roundProgress"] for _ in range(8)]
    states = [(one["state"], one["selected"], one["accepted"]) for one in seen]
    assert states == [
        ("open", 0, 0), ("open", 3, 0), ("open", 3, 1), ("open", 3, 2), ("open", 3, 3), ("sealed", 3, 3),
        ("sealed", 3, 3), ("completed", 3, 3),
    ]  # fmt: skip
    assert seen[-1]["participants"] == 3
    assert seen[-1]["accuracy"] is not None
    middle = seen[3]["position"]
    with graphql_socket(site.url, {"token": token}) as client:
        client.subscribe(PROGRESS, session=str(session_id), after=middle)
        assert [client.next()["roundProgress"] for _ in range(4)] == seen[4:]
