"""Signatures as they go over the wire: the documented example, and what both halves agree on."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infrastructure.http_signatures import (
    DeviceAuth,
    SignatureExpired,
    check_digest,
    check_signature,
    check_time,
    claimed,
    content_digest,
    signature_headers,
)

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "integrator.md"
DEVICE = UUID("00000000-0000-4000-8000-000000000001")


def test_the_example_in_the_integrator_s_guide_is_what_we_sign() -> None:
    headers = signature_headers(
        "POST",
        "http://village.example/v1/device_registry/heartbeat",
        device_id=DEVICE,
        key=Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
        body=b'{"sequence": 7}',
        created=datetime.fromtimestamp(1_800_000_000, UTC),
        nonce="nonce-1",
    )
    guide = GUIDE.read_text()
    for name, value in headers.items():
        assert f"{name}: {value}" in guide
    assert f'"@signature-params": {headers["Signature-Input"].removeprefix("village=")}' in guide


def sent(request: httpx2.Request, key: Ed25519PrivateKey) -> httpx2.Request:
    """The request as a client with this auth would put it on the wire."""
    return next(DeviceAuth(DEVICE, key).sync_auth_flow(request))


@pytest.mark.parametrize(
    "request_",
    [
        httpx2.Request("GET", "http://village.example/v1/things"),
        httpx2.Request("GET", "http://village.example/v1/things?a=1&b=%20%C3%A9"),
        httpx2.Request("POST", "http://village.example/v1/th%C3%AFngs/x%2Fy", json={"a": 1}),
        httpx2.Request("PUT", "http://village.example/v1/things", content=b"\x00\xff" * 1_000),
    ],
)
def test_what_the_client_signs_the_server_accepts(request_: httpx2.Request) -> None:
    key = Ed25519PrivateKey.generate()
    request = sent(request_, key)
    body = request.read()
    claim = claimed(request.headers)
    assert claim.device_id == DEVICE
    check_time(claim, datetime.now(UTC))
    url = f"http://127.0.0.1:1{request.url.raw_path.decode()}"  # behind a proxy, under another name
    check_signature(request.method, url, request.headers, key.public_key(), has_body=bool(body))
    if body:
        check_digest(request.headers, body)


def test_a_retry_is_signed_anew() -> None:
    key = Ed25519PrivateKey.generate()
    request = sent(httpx2.Request("POST", "http://village.example/", content=b"x"), key)
    first = claimed(request.headers).nonce
    again = sent(request, key)
    assert claimed(again.headers).nonce != first
    assert again.headers.get_list("signature") == [again.headers["signature"]]


def test_a_body_that_streams_is_not_read_when_its_digest_is_known() -> None:
    def pieces() -> Iterator[bytes]:
        yield pytest.fail("the body was read")

    request = httpx2.Request(
        "PUT",
        "http://village.example/",
        content=pieces(),
        headers={"Content-Digest": content_digest(b"known")},
    )
    assert "signature" in sent(request, Ed25519PrivateKey.generate()).headers


def test_an_expired_signature_is_refused_though_it_was_made_just_now() -> None:
    now = datetime.now(UTC)
    past = {
        "signature": "a=:AA==:",
        "signature-input": f'a=();keyid="{DEVICE}";created={int(now.timestamp())};expires=1',
    }
    with pytest.raises(SignatureExpired):
        check_time(claimed(past), now)
