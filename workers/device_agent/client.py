"""The device's side of the REST interface: signed requests, bounded retries, streamed blobs."""

import asyncio
import hashlib
import ipaddress
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from infrastructure.http_signatures import content_digest_of_sha256
from workers.device_agent.assignment import Assignment
from workers.device_agent.state import file_matches

T = TypeVar("T")

CHUNK_BYTES = 1 << 20
MAX_ANSWER_BYTES = 1 << 20
REQUEST_TIMEOUT_S = 15.0
_RETRY_STATUS = frozenset({429, 502, 503, 504})
_ONE_FILE_MODE = 0o600


class ApiUnavailable(Exception):
    """The village did not answer usefully within the bounded attempts; try again later."""


class BlobDamaged(ApiUnavailable):
    """A downloaded blob is not the one that was asked for."""


class ApiRefused(Exception):
    """The village understood and refused: `code` is the stable code of its problem answer."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status, self.code, self.detail = status, code, detail


class _TryAgain(Exception):
    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter; a server's Retry-After is a floor, itself bounded."""

    attempts: int = 8
    base_s: float = 0.2
    cap_s: float = 10.0
    retry_after_cap_s: float = 60.0

    def pause_s(self, attempt: int, after_s: float | None) -> float:
        """How long to wait after failed attempt number `attempt` (from 0)."""
        jittered = random.uniform(0, min(self.cap_s, self.base_s * 2**attempt))
        return jittered + min(after_s or 0.0, self.retry_after_cap_s)


class VillageClient:
    """Talks to one village for one device (or for nobody, when `auth` is None).

    The underlying connection pool is shared by all devices of a process.
    """

    def __init__(
        self, http: httpx2.AsyncClient, auth: httpx2.Auth | None = None, retry: RetryPolicy | None = None
    ) -> None:
        self._http, self._auth, self._retry = http, auth, retry or RetryPolicy()

    async def command(self, path: str, body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """POST one command under an idempotency key, so that every retry is the same command.

        Raises ApiRefused, or ApiUnavailable after the last attempt.
        """
        headers = {"Idempotency-Key": key}
        return await self._retried(lambda: self._json("POST", path, json=body, headers=headers)) or {}

    async def beat(self, sequence: int, latency_ms: int | None) -> int:
        """Send one heartbeat, without retry (the next beat is the retry); answers the measured latency in ms.

        Raises ApiRefused or ApiUnavailable.
        """
        body = {"sequence": sequence} if latency_ms is None else {"sequence": sequence, "latency_ms": latency_ms}
        headers = {"Idempotency-Key": f"heartbeat-{sequence}"}
        started = time.perf_counter()
        try:
            await self._json("POST", "/v1/device_registry/heartbeat", json=body, headers=headers)
        except _TryAgain as error:
            raise ApiUnavailable(str(error)) from error
        return max(1, round((time.perf_counter() - started) * 1_000))

    async def query(self, path: str, wait_ms: int = 0) -> Mapping[str, Any] | None:
        """GET an object, which the village may take `wait_ms` to answer; None when there is none.

        Raises ApiRefused, or ApiUnavailable after the last attempt.
        """
        timeout = REQUEST_TIMEOUT_S + wait_ms / 1_000
        return await self._retried(lambda: self._json("GET", path, timeout=timeout))

    async def assignment(self, wait_ms: int) -> Assignment | None:
        """The round this device has to work on, waiting up to `wait_ms` for one; None when there is none.

        Raises ApiRefused, or ApiUnavailable after the last attempt or for an answer outside its bounds.
        """
        answer = await self.query(f"/v1/federated_learning/assignment?wait_ms={wait_ms}", wait_ms)
        try:
            return None if answer is None else msgspec.convert(answer, Assignment)
        except msgspec.ValidationError as error:
            raise ApiUnavailable(f"an assignment that cannot be worked on: {error}") from error

    async def fetch_blob(self, blob_hash: str, target: Path, max_bytes: int) -> None:
        """Download a blob to `target` unless it is there already; only bytes with the right hash ever get the name.

        Raises BlobDamaged, ApiRefused, or ApiUnavailable after the last attempt.
        """
        if not file_matches(target, blob_hash):
            await self._retried(lambda: self._download(blob_hash, target, max_bytes))

    async def put_blob(self, blob_hash: str, source: Path) -> None:
        """Upload a file under its hash, streamed. Uploading it again is harmless.

        Raises ApiRefused, or ApiUnavailable after the last attempt.
        """
        status = await asyncio.to_thread(source.stat)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(status.st_size),
            "Content-Digest": content_digest_of_sha256(blob_hash),
        }
        path = f"/v1/blobs/{blob_hash}"
        await self._retried(lambda: self._json("PUT", path, content=_chunks(source), headers=headers))

    async def _json(self, method: str, path: str, **options: Any) -> Mapping[str, Any] | None:
        try:
            async with self._http.stream(method, path, auth=self._auth, **options) as response:
                content = await _bounded(response)
        except httpx2.TransportError as error:
            raise _TryAgain(f"{method} {path}: {type(error).__name__}") from error
        _raise_for(response, content)
        return _object(content) if content else None

    async def _download(self, blob_hash: str, target: Path, max_bytes: int) -> None:
        draft = target.with_name(f"{target.name}.part")
        try:
            async with self._http.stream("GET", f"/v1/blobs/{blob_hash}", auth=self._auth) as response:
                if response.status_code != 200:
                    _raise_for(response, await _bounded(response))
                if await _to_file(response, draft, max_bytes) != blob_hash:
                    raise BlobDamaged(f"blob {blob_hash[:16]} came with other bytes")
            draft.replace(target)
        except httpx2.TransportError as error:
            raise _TryAgain(f"download of {blob_hash[:16]}: {type(error).__name__}") from error
        finally:
            draft.unlink(missing_ok=True)

    async def _retried(self, send: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(self._retry.attempts):
            try:
                return await send()
            except _TryAgain as error:
                if attempt + 1 == self._retry.attempts:
                    raise ApiUnavailable(f"{error} after {self._retry.attempts} attempts") from error
                await asyncio.sleep(self._retry.pause_s(attempt, error.after_s))
        raise AssertionError("a retry policy has at least one attempt")


def open_http(api_url: str, *, connections: int = 10, plain_http: bool = False) -> httpx2.AsyncClient:
    """A connection pool to one village. Close it with `aclose`.

    Raises ValueError for an address that is not http(s), or plain http to another machine (it would show the claim
    code to everyone on the way) unless `plain_http` allows it.
    """
    parts = urlsplit(api_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{api_url!r} is not the address of a village")
    loopback = _is_loopback(parts.hostname)
    if parts.scheme == "http" and not (loopback or plain_http):
        raise ValueError("plain http to another machine shows the claim code to everyone on the way; use https")
    # A proxy named in the environment can reach no loopback address.
    return httpx2.AsyncClient(
        base_url=api_url,
        timeout=REQUEST_TIMEOUT_S,
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=not loopback,
        follow_redirects=False,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _chunks(source: Path) -> AsyncIterator[bytes]:
    with source.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


async def _bounded(response: httpx2.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise ApiUnavailable(f"an answer larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(content)


async def _to_file(response: httpx2.Response, draft: Path, max_bytes: int) -> str:
    digest, size = hashlib.sha256(), 0
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _ONE_FILE_MODE), "wb") as file:
        async for chunk in response.aiter_bytes(CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise BlobDamaged(f"a blob larger than {max_bytes} bytes")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _raise_for(response: httpx2.Response, content: bytes) -> None:
    status = response.status_code
    if status < 300:
        return
    if status in _RETRY_STATUS:
        raise _TryAgain(f"{response.request.method} {response.request.url.path}: {status}", _retry_after(response))
    try:
        problem = _object(content)
    except ApiUnavailable:
        problem = {}
    if status >= 500:
        raise ApiUnavailable(f"{response.request.method} {response.request.url.path}: {status}")
    raise ApiRefused(status, str(problem.get("code", "unknown")), str(problem.get("detail", ""))[:500])


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ApiUnavailable("an answer that is not a JSON object") from error
