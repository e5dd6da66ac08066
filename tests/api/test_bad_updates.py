"""Bad updates and uploads over HTTP: each is refused by its own name, and nothing is recorded."""

import base64
import hashlib
import json
import pickle
import socket
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from domain.device_registry.device import Device as Registered
from domain.federated_learning.round import TrainingRound
from domain.federated_learning.statement import check_signature, sign, statement
from infrastructure.http_signatures import signature_headers
from tests.api.training_site import FL, Device, Site, assert_problem, site
from tests.running import records
from tests.training import arrays, blob_of

__all__ = ["site"]


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


def test_an_update_of_a_device_that_was_not_asked_is_refused(site: Site, work: tuple[Device, str]) -> None:
    _, round_id = work
    newcomer = site.device()
    refused(site, newcomer, site.update(newcomer, round_id), "not_a_participant")


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


def test_an_update_that_its_device_did_not_sign_is_refused(site: Site, work: tuple[Device, str]) -> None:
    device, round_id = work
    good = site.update(device, round_id)
    said = {name: good[name] for name in ("round_id", "blob_hash", "bytes", "examples", "train_ms")}
    signed = sign(device.signing, statement(device_id=device.device_id, **said))
    refused(site, device, good | {"signature": sign(Device().signing, b"")}, "update_signature_invalid")
    refused(site, device, good | {"signature": "not base64"}, "update_signature_invalid")
    refused(site, device, good | {"signature": "\u00e9"}, "update_signature_invalid")
    refused(site, device, good | {"signature": signed, "examples": 11}, "update_signature_invalid")
    refused(site, device, good | {"signature": ""}, "request_invalid")
    assert site.submit(device, good | {"signature": signed}).status_code == 200


def test_the_log_and_the_device_s_key_prove_who_sent_an_update(site: Site, work: tuple[Device, str]) -> None:
    device, round_id = work
    assert site.submit(device, site.update(device, round_id)).status_code == 200
    (fact,) = [r.fact() for r in records(site.ctx.database.url) if r.topic == TrainingRound.UpdateAccepted.TOPIC]  # type: ignore[attr-defined]
    said = {name: getattr(fact.event, name) for name in ("device_id", "blob_hash", "bytes", "examples", "train_ms")}
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(site.log.load(Registered, device.device_id).ed25519_pub))
    check_signature(key, fact.event.signature, statement(round_id=UUID(round_id), **said))


def test_a_replayed_or_altered_request_records_nothing(site: Site, work: tuple[Device, str]) -> None:
    device, round_id = work
    url, body = f"{site.url}{FL}/submit_update", json.dumps(site.update(device, round_id) | {"signature": "x"}).encode()
    headers = signature_headers("POST", url, device_id=device.device_id, key=device.signing, body=body)
    headers["Content-Type"] = "application/json"
    head = site.log.head()
    altered = site.client.post(url, content=body + b" ", headers=headers)
    assert_problem(site, altered, "content_digest_mismatch", head)
    forged = headers | {"Signature": f"village=:{base64.b64encode(bytes(64)).decode()}:"}
    assert_problem(site, site.client.post(url, content=body, headers=forged), "signature_invalid", head)
    assert site.client.post(url, content=body, headers=headers).json()["code"] == "update_signature_invalid"
    assert_problem(site, site.client.post(url, content=body, headers=headers), "signature_replayed", head)


def test_an_upload_says_its_length(site: Site, work: tuple[Device, str]) -> None:
    data, head = blob_of(arrays(seed=8)), site.log.head()
    name = hashlib.sha256(data).hexdigest()
    answer = site.client.put(f"/v1/blobs/{name}", content=iter([data]), headers=site.headers())
    assert_problem(site, answer, "length_required", head)
    assert not site.ctx.blobs.exists(name)


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
    assert site.log.head() == head


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
