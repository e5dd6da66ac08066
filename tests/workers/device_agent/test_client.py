"""The device's HTTP: what is tried again, what is not, and what is never believed."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.federated_learning.manifest import mlp_manifest
from infrastructure.http_signatures import DeviceAuth, check_digest, check_signature, claimed
from tests.workers.device_agent.village import Answer, Seen, village
from workers.device_agent.client import (
    MAX_ANSWER_BYTES,
    ApiRefused,
    ApiUnavailable,
    BlobDamaged,
    RetryPolicy,
    VillageClient,
    open_http,
)

T = TypeVar("T")
QUICK = RetryPolicy(attempts=3, base_s=0.001, cap_s=0.002)
BLOB = b"model" * 1_000
HASH = hashlib.sha256(BLOB).hexdigest()


def ask(url: str, call: Callable[[VillageClient], Awaitable[T]], auth: DeviceAuth | None = None) -> T:
    async def asked() -> T:
        async with open_http(url) as http:
            return await call(VillageClient(http, auth, QUICK))

    return asyncio.run(asked())


def answers(*given: Answer) -> Callable[[Seen], Answer]:
    left = list(given)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize("trouble", [Answer(503), Answer(429), Answer(502), Answer(504), Answer(drop=True)])
def test_a_village_in_trouble_is_asked_again_with_the_same_key_and_body(trouble: Answer) -> None:
    with village(answers(trouble, trouble, Answer(body=b'{"position": 7}'))) as (url, seen):
        assert ask(url, lambda client: client.command("/v1/x/y", {"a": 1}, "key-1")) == {"position": 7}
    assert len(seen) == 3
    assert {(request.body, request.headers["idempotency-key"]) for request in seen} == {(seen[0].body, "key-1")}


def test_the_attempts_are_bounded() -> None:
    with village(answers(Answer(503))) as (url, seen), pytest.raises(ApiUnavailable, match="3 attempts"):
        ask(url, lambda client: client.command("/v1/x/y", {}, "key"))
    assert len(seen) == QUICK.attempts


def test_nobody_at_the_address_is_the_same_as_a_village_in_trouble() -> None:
    with village(answers(Answer())) as (url, _):
        pass
    with pytest.raises(ApiUnavailable, match="ConnectError"):
        ask(url, lambda client: client.command("/v1/x/y", {}, "key"))


def test_the_pause_doubles_up_to_a_cap_and_never_undercuts_retry_after() -> None:
    policy = RetryPolicy(attempts=8, base_s=1, cap_s=4, retry_after_cap_s=30)
    for attempt, ceiling in enumerate([1, 2, 4, 4]):
        assert all(0 <= policy.pause_s(attempt, None) <= ceiling for _ in range(50))
        assert all(5 <= policy.pause_s(attempt, 5) <= 5 + ceiling for _ in range(50))
    assert policy.pause_s(0, 100_000) <= 31


def test_retry_after_is_honoured() -> None:
    slow = Answer(429, headers={"Retry-After": "1"})
    with village(answers(slow, Answer())) as (url, seen):
        loop_time: list[float] = []

        async def timed(client: VillageClient) -> None:
            loop_time.append(asyncio.get_running_loop().time())
            await client.command("/v1/x/y", {}, "key")
            loop_time.append(asyncio.get_running_loop().time())

        ask(url, timed)
    assert len(seen) == 2
    assert loop_time[1] - loop_time[0] >= 1


def test_a_refusal_is_not_asked_again_and_carries_its_code() -> None:
    problem = Answer(422, b'{"code": "update_late", "detail": "too late", "status": 422}')
    with village(answers(problem)) as (url, seen), pytest.raises(ApiRefused) as refused:
        ask(url, lambda client: client.command("/v1/x/y", {}, "key"))
    assert (refused.value.status, refused.value.code) == (422, "update_late")
    assert len(seen) == 1


def test_an_answer_that_is_too_large_or_no_object_is_not_believed() -> None:
    for body in (b"x" * (MAX_ANSWER_BYTES + 1), b"[1]", b"not json"):
        with village(answers(Answer(body=body))) as (url, _), pytest.raises(ApiUnavailable):
            ask(url, lambda client: client.command("/v1/x/y", {}, "key"))


def test_every_request_is_signed_anew_over_its_body() -> None:
    key, device_id = Ed25519PrivateKey.generate(), uuid4()
    with village(answers(Answer(503), Answer())) as (url, seen):
        ask(url, lambda client: client.command("/v1/x/y?z=1", {"a": 1}, "key"), DeviceAuth(device_id, key))
    for request in seen:
        check_digest(request.headers, request.body)
        check_signature("POST", f"{url}{request.path}", request.headers, key.public_key(), has_body=True)
    assert len({claimed(request.headers).nonce for request in seen}) == 2


def test_a_blob_is_fetched_once_and_only_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with village(answers(Answer(drop=True), Answer(body=BLOB))) as (url, seen):
        ask(url, lambda client: client.fetch_blob(HASH, target, 10_000))
        ask(url, lambda client: client.fetch_blob(HASH, target, 10_000))
    assert target.read_bytes() == BLOB
    assert len(seen) == 2


@pytest.mark.parametrize("body", [b"other bytes", BLOB + b"!", b"x" * 20_000])
def test_a_blob_with_other_bytes_or_too_many_gets_no_name(tmp_path: Path, body: bytes) -> None:
    with village(answers(Answer(body=body))) as (url, _), pytest.raises(BlobDamaged):
        ask(url, lambda client: client.fetch_blob(HASH, tmp_path / "model", 10_000))
    assert list(tmp_path.iterdir()) == []


def test_a_blob_is_uploaded_with_its_length_and_signed_with_its_digest(tmp_path: Path) -> None:
    source = tmp_path / "update"
    source.write_bytes(BLOB)
    key = Ed25519PrivateKey.generate()
    with village(answers(Answer(503), Answer(201, b""))) as (url, seen):
        ask(url, lambda client: client.put_blob(HASH, source), DeviceAuth(uuid4(), key))
    assert [request.body for request in seen] == [BLOB, BLOB]
    assert seen[1].path == f"/v1/blobs/{HASH}"
    assert "transfer-encoding" not in seen[1].headers
    check_digest(seen[1].headers, seen[1].body)
    check_signature("PUT", f"{url}{seen[1].path}", seen[1].headers, key.public_key(), has_body=True)


def test_no_assignment_is_none_and_one_outside_its_bounds_is_not_worked_on() -> None:
    good = {
        "round_id": str(uuid4()),
        "session_id": str(uuid4()),
        "number": 1,
        "model_hash": HASH,
        "manifest": msgspec.to_builtins(mlp_manifest([4, 3])),
        "training": {"epochs": 1, "batch_size": 2, "learning_rate": 0.1, "momentum": 0.0, "proximal_mu": 0.0},
        "policy": {"clip_micro": 1_000_000, "timeout_ms": 1_000},
        "deadline_at": "2030-01-01T00:00:00Z",
        "submitted": False,
    }
    with village(answers(Answer(204, b""), Answer(body=msgspec.json.encode(good)))) as (url, seen):
        assert ask(url, lambda client: client.assignment(5)) is None
        assignment = ask(url, lambda client: client.assignment(5))
    assert assignment is not None
    assert assignment.policy.clip_micro == 1_000_000
    assert seen[0].path == "/v1/federated_learning/assignment?wait_ms=5"
    endless = {"epochs": 10**9, "batch_size": 2, "learning_rate": 0.1, "momentum": 0.0}
    for change in ({"model_hash": "../../etc/passwd"}, {"training": endless}):
        bad = Answer(body=msgspec.json.encode({**good, **change}))
        with village(answers(bad)) as (url, _), pytest.raises(ApiUnavailable, match="cannot be worked on"):
            ask(url, lambda client: client.assignment(5))


def test_plain_http_to_another_machine_needs_the_owners_word() -> None:
    for address in ("http://village.example", "ftp://127.0.0.1", "127.0.0.1:8420"):
        with pytest.raises(ValueError):
            open_http(address)
    for address in ("http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://village.example"):
        asyncio.run(open_http(address).aclose())
    asyncio.run(open_http("http://village.example", plain_http=True).aclose())
