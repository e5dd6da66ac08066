"""Who may pass: every route is closed unless declared open, and each proof is checked."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import WebSocketRoute

from api.app import create_app
from api.edge.gate import COOKIE, GatedRoute
from api.edge.principals import Tokens
from api.edge.problems import TokenExpired
from infrastructure.keys import load_keys

from . import sample
from .conftest import Edge

OPEN = {"/livez", "/readyz", "/version", "/login", "/logout", "/v1/sample/open"}
OPEN_ON_LOOPBACK = {"/metrics"}


@pytest.fixture
def edge(steady: Edge) -> Edge:
    """No test here counts what is recorded."""
    steady.client.cookies.clear()
    return steady


def routes_of(app: FastAPI) -> Iterator[tuple[str, str, object]]:
    """Every method and path the app answers, with the route behind it."""
    for found in iter_route_contexts(app.routes):
        for method in sorted(found.methods or {"WEBSOCKET"}):
            yield method, found.path or "", found.original_route


def test_every_route_but_the_declared_open_ones_refuses_who_proves_nothing(edge: Edge) -> None:
    asked = set()
    for method, path, _ in routes_of(create_app(edge.ctx, [sample])):
        if method == "WEBSOCKET":
            continue
        asked.add(path)
        url = path.replace("{sha256}", "a" * 64)
        answer = edge.client.request(method, url, content=b"{}" if method == "POST" else None)
        if path in OPEN | OPEN_ON_LOOPBACK or path == "/" or path.startswith("/dashboard/"):
            assert answer.status_code not in (401, 403), (method, path, answer.text)
        else:
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.json()["code"] == "credentials_missing", path
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert asked >= OPEN | OPEN_ON_LOOPBACK | {"/graphql", "/openapi.json", "/v1/sample/unmarked"}


def test_every_http_route_of_the_app_stands_behind_the_gate(edge: Edge) -> None:
    for method, path, route in routes_of(create_app(edge.ctx, [sample])):
        if method == "WEBSOCKET":
            assert path == "/graphql", "a socket proves itself in connection_init: only /graphql does"
            assert isinstance(route, WebSocketRoute)
        else:
            assert isinstance(route, GatedRoute), path
            assert isinstance(route, APIRoute)


def test_metrics_need_an_operator_as_soon_as_the_client_may_be_elsewhere(edge: Edge) -> None:
    told = edge.client.get("/metrics").text
    assert "village_log_position" in told
    assert "village_bus_dead_letters" in told
    through_a_proxy = {"X-Forwarded-For": "203.0.113.9"}
    assert edge.client.get("/metrics", headers=through_a_proxy).status_code == 401
    assert edge.client.get("/metrics", headers=through_a_proxy | edge.bearer()).status_code == 200
    assert edge.client.get("/metrics", headers={"Host": "evil.example"}).status_code == 401


def test_a_route_without_a_declaration_is_for_operators_only(edge: Edge) -> None:
    assert edge.client.get("/v1/sample/unmarked", headers=edge.bearer()).status_code == 200
    answer = edge.client.get("/v1/sample/unmarked", headers=edge.bearer("member", str(uuid4())))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.e30."])
def test_a_token_that_is_not_ours_is_refused(edge: Edge, token: str) -> None:
    answer = edge.client.get("/v1/sample/unmarked", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


def test_a_token_that_was_altered_is_refused(edge: Edge) -> None:
    head, _, tail = edge.token().split(".")
    _, claims, _ = edge.token(subject="mallory").split(".")
    answer = edge.client.get("/openapi.json", headers={"Authorization": f"Bearer {head}.{claims}.{tail}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


def test_a_token_ends(edge: Edge) -> None:
    past = datetime.now(UTC) - timedelta(hours=2)
    token = edge.tokens.issue(role="operator", subject="ada", expires_in=timedelta(hours=1), now=past)
    answer = edge.client.get("/openapi.json", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")


def test_a_token_that_was_good_expires_all_the_same(edge: Edge) -> None:
    now = datetime.now(UTC)
    token = edge.tokens.issue(role="operator", subject="ada", expires_in=timedelta(hours=1), now=now)
    assert edge.tokens.principal(token, now).subject == "ada"
    with pytest.raises(TokenExpired):
        edge.tokens.principal(token, now + timedelta(hours=1))


def test_a_token_of_another_village_is_refused(edge: Edge, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = Tokens(load_keys(tmp_path_factory.mktemp("other")))
    token = elsewhere.issue(role="operator", subject="ada", expires_in=timedelta(hours=1))
    answer = edge.client.get("/openapi.json", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


def test_a_session_cookie_is_honoured_for_pages_of_this_origin_only(edge: Edge) -> None:
    cookie = {"Cookie": f"{COOKIE}={edge.token()}"}
    body = {"query": "{ leaf { name } }"}
    answer = edge.client.post("/graphql", json=body, headers=cookie | {"Origin": edge.url})
    assert answer.json() == {"data": {"leaf": {"name": "operator:ada"}}}
    answer = edge.client.post("/graphql", json=body, headers=cookie | {"Origin": "https://evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")
