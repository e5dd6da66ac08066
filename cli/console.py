"""An operator's client of a running village: commands by REST, reads by GraphQL, blobs."""

import hashlib
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx2

from workers.device_agent.client import RetryPolicy

_TIMEOUT_S = 20.0
_TRY_AGAIN = frozenset({429, 502, 503, 504})


class VillageError(Exception):
    """The village refused, or did not answer within the bounded attempts."""


class Console:
    """One operator at one village on this machine. Close it, or use it in a `with`."""

    def __init__(self, api_url: str, token: str, retry: RetryPolicy | None = None) -> None:
        # Patient enough for an API that is being started again on a busy machine: about half a minute.
        self._retry = retry or RetryPolicy(attempts=12)
        self._http = httpx2.Client(
            base_url=api_url, timeout=_TIMEOUT_S, trust_env=False, headers={"Authorization": f"Bearer {token}"}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def command(self, path: str, body: Mapping[str, Any], *, key: str | None = None) -> Mapping[str, Any]:
        """POST one command; every retry carries the same idempotency key. Raises VillageError."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        return self._sent("POST", path, json=body, headers=headers)

    def query(self, document: str, **variables: Any) -> Mapping[str, Any]:
        """Ask one GraphQL query; answers its data. Raises VillageError, also when a part of it failed."""
        answer = self._sent("POST", "/graphql", json={"query": document, "variables": variables})
        if answer.get("errors"):
            raise VillageError(str(answer["errors"][0].get("message", "a query failed")))
        data: Mapping[str, Any] = answer["data"]
        return data

    def put_blob(self, content: bytes) -> str:
        """Upload a blob; answers its hash. Raises VillageError."""
        blob_hash = hashlib.sha256(content).hexdigest()
        headers = {"Content-Type": "application/octet-stream"}
        self._sent("PUT", f"/v1/blobs/{blob_hash}", content=content, headers=headers)
        return blob_hash

    def _sent(self, method: str, path: str, **options: Any) -> Mapping[str, Any]:
        why = ""
        for attempt in range(self._retry.attempts):
            try:
                response = self._http.request(method, path, **options)
            except httpx2.TransportError as error:
                why = f"{type(error).__name__}"
            else:
                if response.status_code not in _TRY_AGAIN:
                    return _answer(method, path, response)
                why = str(response.status_code)
            if attempt + 1 < self._retry.attempts:
                time.sleep(self._retry.pause_s(attempt, None))
        raise VillageError(f"{method} {path}: {why} after {self._retry.attempts} attempts")


def _answer(method: str, path: str, response: httpx2.Response) -> Mapping[str, Any]:
    try:
        content: Any = response.json() if response.content else {}
    except ValueError as error:
        raise VillageError(f"{method} {path}: {response.status_code}, not JSON") from error
    # GraphQL answers its errors in a body of its own form.
    if response.is_success or (isinstance(content, dict) and "errors" in content and path == "/graphql"):
        answer: Mapping[str, Any] = content
        return answer
    raise VillageError(f"{method} {path}: {response.status_code} {content.get('code')}: {content.get('detail')}")
