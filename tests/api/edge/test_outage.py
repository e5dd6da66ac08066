"""When the database is away: health says so in time, and requests are refused by name."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.edge.context import ApiContext
from infrastructure import database as databases
from infrastructure.blobs import BlobStore
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from tests.devices import Directory


@contextmanager
def cut_off(home: Path) -> Iterator[TestClient]:
    """An API whose database is not there."""
    with databases.Database("postgresql://nobody@127.0.0.1:1/nothing") as database:
        ctx = ApiContext(
            village=cast(Any, None),
            database=database,
            blobs=BlobStore.open(None, home=home),
            keys=load_keys(home),
            settings=Settings(home=home),
            devices=Directory(),
        )
        with TestClient(create_app(ctx)) as client:
            yield client


def test_health_does_not_wait_as_long_as_requests_do_and_names_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "POOL_TIMEOUT_S", 60.0)
    with cut_off(tmp_path) as client:
        started = time.monotonic()
        answer = client.get("/readyz")
        assert time.monotonic() - started < 30
        assert client.get("/livez").status_code == 200
    assert answer.status_code == 503
    assert [(check["name"], check["ok"]) for check in answer.json()["checks"]] == [
        ("database", False),
        ("consumers", False),
        ("disk", True),
    ]
    assert "nobody" not in answer.text


def test_a_request_that_needs_the_database_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "POOL_TIMEOUT_S", 0.5)
    with cut_off(tmp_path) as client:
        answer = client.get("/login", params={"code": "x" * 43})
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"] == "1"
