"""The whole API as it is composed: closed by default, with no route forgotten."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.edge.gate import GatedRoute
from cli.compose import api_app
from infrastructure.settings import Settings

OPEN = {
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/version"),
    ("GET", "/login"),
    ("POST", "/logout"),
    # A claim code and the proof of a key are what authorises these two.
    ("POST", "/v1/device_registry/request_challenge"),
    ("POST", "/v1/device_registry/register_device"),
}


@pytest.fixture
def app(database_url: str, tmp_path: Path) -> Iterator[FastAPI]:
    with api_app(Settings(home=tmp_path, database_url=SecretStr(database_url))) as app:
        yield app


def is_page(path: str) -> bool:
    """The page's own files hold nothing of the village."""
    return path == "/" or path.startswith("/dashboard/")


def test_only_the_declared_routes_answer_who_proves_nothing(app: FastAPI) -> None:
    answered = set()
    with TestClient(app) as client:
        for route in iter_route_contexts(app.routes):
            for method in route.methods or ():
                path = route.path or ""
                url = path.replace("{sha256}", "a" * 64).replace("{", "").replace("}", "")
                answer = client.request(method, url, content=b"{}" if method in ("POST", "PUT") else None)
                if answer.status_code != 401:
                    answered.add((method, path))
                else:
                    assert answer.json()["code"] == "credentials_missing", (method, path)
    assert {(method, path) for method, path in answered if not is_page(path)} == OPEN


def test_every_http_route_stands_behind_the_gate(app: FastAPI) -> None:
    ungated = {
        route.path for route in iter_route_contexts(app.routes) if not isinstance(route.original_route, GatedRoute)
    }
    assert ungated == {"/graphql"}, "only the socket, which proves itself in connection_init"


def test_a_device_and_a_member_are_kept_from_what_operators_do(app: FastAPI) -> None:
    token = app.state.gate.tokens.issue
    member = {"Authorization": f"Bearer {token(role='member', subject=str(uuid4()), expires_in=timedelta(hours=1))}"}
    with TestClient(app) as client:
        for path in ("/v1/tokenomics/open_epoch", "/v1/tokenomics/distribute_rewards", "/metrics"):
            method = "GET" if path == "/metrics" else "POST"
            answer = client.request(method, path, json={} if method == "POST" else None, headers=member)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), path
