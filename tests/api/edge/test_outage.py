"""When the database is away: health says so in time, and requests are refused by name."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.edge.context import ApiContext
from infrastructure import database as databases
from infrastructure.blobs import BlobStore
from infrastructure.keys import load_keys
from infrastructure.settings import Settings


@pytest.fixture
def cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx2.Client]:
    monkeypatch.setattr(databases, "POOL_TIMEOUT_S", 3.0)
    with databases.Database("postgresql://nobody@127.0.0.1:1/nothing") as database:
        ctx = ApiContext(
            village=cast(Any, None),
            database=database,
            blobs=BlobStore.open(None, home=tmp_path),
            keys=load_keys(tmp_path),
            settings=Settings(home=tmp_path),
            devices=lambda _: None,
        )
        with TestClient(create_app(ctx)) as client:
            yield cast(httpx2.Client, client)


def test_health_answers_within_its_bound_and_names_what_fails(cut_off: httpx2.Client) -> None:
    started = time.monotonic()
    answer = cut_off.get("/readyz")
    assert time.monotonic() - started < 2.8
    assert answer.status_code == 503
    assert [(check["name"], check["ok"]) for check in answer.json()["checks"]] == [
        ("database", False),
        ("consumers", False),
    ]
    assert "nobody" not in answer.text
    assert cut_off.get("/livez").status_code == 200


def test_a_request_that_needs_the_database_is_refused_by_name(cut_off: httpx2.Client) -> None:
    answer = cut_off.get("/login", params={"code": "x" * 43})
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"] == "1"
