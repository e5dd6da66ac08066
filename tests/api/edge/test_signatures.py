"""Devices sign their requests: what is accepted, and each way to be refused."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from api.edge.principals import Nonces
from infrastructure.database import Role
from infrastructure.http_signatures import content_digest_of_sha256, signature_headers

from .conftest import Device, Edge


@pytest.fixture
def edge(steady: Edge) -> Edge:
    """No test here counts what is recorded."""
    steady.client.cookies.clear()
    return steady


@pytest.fixture
def device(edge: Edge) -> Device:
    return edge.enrol()


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_signed_request_is_the_device_s_own(edge: Edge, device: Device) -> None:
    answer = edge.client.get("/v1/sample/mine", auth=device.auth)
    assert answer.json() == {"device": str(device.device_id), "owner": str(device.owner_id), "page": 0}


def test_query_and_body_are_signed_too(edge: Edge, device: Device) -> None:
    assert edge.client.get("/v1/sample/mine?page=7", auth=device.auth).json()["page"] == 7
    answer = edge.client.post("/v1/sample/beat", json={"sequence": 3}, auth=device.auth)
    assert answer.json() == {"device": str(device.device_id), "sequence": 3}


def test_a_signature_of_another_key_is_refused(edge: Edge, device: Device) -> None:
    stranger = Device(device_id=device.device_id)
    assert code_of(edge.client.get("/v1/sample/mine", auth=stranger.auth)) == (401, "signature_invalid")


def test_a_device_that_is_not_enrolled_is_refused(edge: Edge) -> None:
    assert code_of(edge.client.get("/v1/sample/mine", auth=Device().auth)) == (401, "unknown_device")


def test_a_signature_does_not_fit_another_path_query_or_method(edge: Edge, device: Device) -> None:
    url = f"{edge.url}/v1/sample/mine"
    signed = signature_headers("GET", url, device_id=device.device_id, key=device.key)
    assert code_of(edge.client.get("/v1/sample/mine?page=1", headers=signed)) == (401, "signature_missing")
    with_query = signature_headers("GET", f"{url}?page=1", device_id=device.device_id, key=device.key)
    assert code_of(edge.client.get("/v1/sample/mine?page=2", headers=with_query)) == (401, "signature_invalid")
    posted = signature_headers("POST", url, device_id=device.device_id, key=device.key)
    assert code_of(edge.client.get("/v1/sample/mine", headers=posted)) == (401, "signature_invalid")


def test_a_signature_works_once(edge: Edge, device: Device) -> None:
    headers = signature_headers("GET", f"{edge.url}/v1/sample/mine", device_id=device.device_id, key=device.key)
    assert edge.client.get("/v1/sample/mine", headers=headers).status_code == 200
    assert code_of(edge.client.get("/v1/sample/mine", headers=headers)) == (401, "signature_replayed")


def test_the_same_nonce_of_two_devices_is_not_a_replay(edge: Edge, device: Device) -> None:
    for one in (device, edge.enrol()):
        headers = signature_headers(
            "GET", f"{edge.url}/v1/sample/mine", device_id=one.device_id, key=one.key, nonce="the-same"
        )
        assert edge.client.get("/v1/sample/mine", headers=headers).status_code == 200


@pytest.mark.parametrize("minutes", [-2, 2])
def test_a_signature_of_another_time_is_refused(edge: Edge, device: Device, minutes: int) -> None:
    made = datetime.now(UTC) + timedelta(minutes=minutes)
    url = f"{edge.url}/v1/sample/mine"
    headers = signature_headers("GET", url, device_id=device.device_id, key=device.key, created=made)
    assert code_of(edge.client.get("/v1/sample/mine", headers=headers)) == (401, "signature_expired")


def test_a_body_other_than_the_signed_one_is_refused(edge: Edge, device: Device) -> None:
    url = f"{edge.url}/v1/sample/beat"
    headers = signature_headers("POST", url, device_id=device.device_id, key=device.key, body=b'{"sequence": 1}')
    headers["Content-Type"] = "application/json"
    altered = edge.client.post("/v1/sample/beat", content=b'{"sequence": 2}', headers=headers)
    assert code_of(altered) == (401, "content_digest_mismatch")
    del headers["Content-Digest"]
    bare = edge.client.post("/v1/sample/beat", content=b'{"sequence": 1}', headers=headers)
    assert code_of(bare) == (401, "content_digest_mismatch")


def test_a_digest_that_is_sent_but_not_signed_is_refused(edge: Edge, device: Device) -> None:
    url = f"{edge.url}/v1/sample/beat"
    unsigned = signature_headers("POST", url, device_id=device.device_id, key=device.key)
    with_digest = signature_headers("POST", url, device_id=device.device_id, key=device.key, body=b'{"sequence": 1}')
    headers = unsigned | {"Content-Digest": with_digest["Content-Digest"], "Content-Type": "application/json"}
    answer = edge.client.post("/v1/sample/beat", content=b'{"sequence": 1}', headers=headers)
    assert code_of(answer) == (401, "signature_missing")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Signature": "a=:AAAA:"}, "signature_missing"),
        ({"Signature-Input": 'a=("@method");created=1', "Signature": "a=:AAAA:"}, "signature_missing"),
        ({"Signature-Input": "((", "Signature": "a=:AAAA:"}, "signature_invalid"),
        ({"Signature-Input": 'a=();keyid="x";created=1', "Signature": "a=:AAAA:"}, "signature_invalid"),
        ({"Signature-Input": "a=(),b=()", "Signature": "a=:AAAA:, b=:AAAA:"}, "signature_invalid"),
    ],
)
def test_a_malformed_signature_is_refused_by_name(edge: Edge, headers: dict[str, str], code: str) -> None:
    assert code_of(edge.client.get("/v1/sample/mine", headers=headers)) == (401, code)


def test_an_upload_streams_under_the_digest_in_its_path(edge: Edge, device: Device) -> None:
    content = b"x" * 300_000
    name = hashlib.sha256(content).hexdigest()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), 65_536):
            yield content[start : start + 65_536]

    digest = {"Content-Digest": content_digest_of_sha256(name)}
    stored = edge.client.put(f"/v1/sample/blobs/{name}", content=pieces(), headers=digest, auth=device.auth)
    assert stored.json() == {"bytes": 300_000}
    elsewhere = edge.client.put(f"/v1/sample/blobs/{'0' * 64}", content=pieces(), headers=digest, auth=device.auth)
    assert code_of(elsewhere) == (401, "content_digest_mismatch")


def test_a_request_that_rises_by_sequence_spends_no_nonce(edge: Edge, device: Device) -> None:
    edge.client.post("/v1/sample/beat", json={"sequence": 1}, auth=device.auth)
    with edge.ctx.database.writer.connection() as connection:
        spent = connection.execute("SELECT count(*) FROM edge.nonces WHERE device_id = %s", (device.device_id,))
        assert spent.fetchone() == (0,)


def test_a_signature_is_accepted_when_the_database_has_cut_its_idle_connections(edge: Edge, device: Device) -> None:
    edge.client.get("/v1/sample/mine", auth=device.auth)
    with edge.ctx.database.connect(Role.WRITER) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND query LIKE '%edge.nonces%'"
        )
    assert edge.client.get("/v1/sample/mine", auth=device.auth).status_code == 200


def test_expired_nonces_are_forgotten_and_fresh_ones_kept(edge: Edge, device: Device) -> None:
    edge.client.get("/v1/sample/mine", auth=device.auth)
    nonces = Nonces(edge.ctx.database)
    assert nonces.purge(datetime.now(UTC)) == 0
    assert nonces.purge(datetime.now(UTC) + timedelta(minutes=5)) > 0
    assert nonces.purge(datetime.now(UTC) + timedelta(minutes=5)) == 0
