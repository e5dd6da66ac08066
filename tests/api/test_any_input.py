"""Whatever is sent to the composed API, it is answered by a name: no input makes it fail."""

import random
import string
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from graphql import (
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    build_client_schema,
    get_introspection_query,
    get_named_type,
)
from pydantic import SecretStr

from cli.compose import api_app
from infrastructure.settings import Settings

REQUESTS = 600
SEED = 20_260_101

STRANGE: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, "", " ", "0", "-1", "1" * 30, "a" * 2_000,
    "é\u202e\U0001f600", "\x01\n", "'; DROP TABLE log.events; --", "../../etc/passwd", [], {}, [[]], {"a": {}},
    "2026-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00-12:00", str(UUID(int=0)), "f" * 64,
]  # fmt: skip


@pytest.fixture(scope="module")
def chance() -> random.Random:
    return random.Random(SEED)


@pytest.fixture
def app(database_url: str, tmp_path: Path) -> Iterator[FastAPI]:
    with api_app(Settings(home=tmp_path, database_url=SecretStr(database_url))) as app:
        yield app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    token = app.state.gate.tokens.issue(role="operator", subject="ada", expires_in=timedelta(hours=1))
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False) as client:
        yield client


def value_of(schema: dict[str, Any], document: dict[str, Any], chance: random.Random) -> Any:
    """A value that fits a JSON schema, mostly; now and then something strange."""
    if chance.random() < 0.12:
        return chance.choice(STRANGE)
    if "$ref" in schema:
        return value_of(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document, chance)
    if "anyOf" in schema:
        return value_of(chance.choice(schema["anyOf"]), document, chance)
    if "enum" in schema:
        return chance.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties", {})
        chosen = [name for name in properties if name in schema.get("required", ()) or chance.random() < 0.7]
        return {name: value_of(properties[name], document, chance) for name in chosen if chance.random() > 0.04}
    if kind == "array":
        return [value_of(schema["items"], document, chance) for _ in range(chance.randint(0, 3))]
    return _scalar(schema, kind, chance)


def _scalar(schema: dict[str, Any], kind: str | None, chance: random.Random) -> Any:
    if kind in ("integer", "number"):
        least, most = schema.get("minimum", 0), schema.get("maximum", 1_000)
        return chance.choice([least, most, least + 1, chance.randint(int(least), int(min(most, least + 10_000)))])
    if kind == "boolean":
        return chance.random() < 0.5
    by_format: dict[str | None, Callable[[], str]] = {
        "uuid": lambda: str(UUID(int=chance.getrandbits(128), version=4)),
        "date-time": lambda: f"20{chance.randint(20, 60)}-0{chance.randint(1, 9)}-01T00:00:00Z",
    }
    if schema.get("format") in by_format:
        return by_format[schema["format"]]()
    if "64" in str(schema.get("pattern")):
        return "".join(chance.choices("0123456789abcdef", k=64))
    return chance.choice([str(chance.randint(0, 10**9)), "".join(chance.choices(string.ascii_letters, k=12))])


def test_no_request_body_makes_a_command_fail(client: TestClient, chance: random.Random) -> None:
    document = client.get("/openapi.json").json()
    commands = [
        (path, operation["requestBody"]["content"]["application/json"]["schema"])
        for path, methods in document["paths"].items()
        for operation in [methods.get("post", {})]
        if "requestBody" in operation
    ]
    assert len(commands) > 15
    seen = set()
    for number in range(REQUESTS):
        path, schema = commands[number % len(commands)]
        body = value_of(schema, document, chance)
        answer = client.post(path, json=body, headers={"Idempotency-Key": str(uuid4())})
        assert answer.status_code < 500, (path, body, answer.text)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json", (path, body)
            seen.add(answer.json()["code"])
        else:
            seen.add("answered")
    assert seen >= {"answered", "request_invalid", "forbidden"}


def argument_of(kind: GraphQLInputType, chance: random.Random) -> Any:
    """A value for a GraphQL argument; now and then something strange."""
    if chance.random() < 0.1:
        return chance.choice(STRANGE)
    if isinstance(kind, GraphQLNonNull):
        return argument_of(kind.of_type, chance)
    if isinstance(kind, GraphQLList):
        return [argument_of(kind.of_type, chance) for _ in range(chance.randint(0, 2))]
    if isinstance(kind, GraphQLInputObjectType):
        chosen = [name for name in kind.fields if chance.random() < 0.5]
        return {name: argument_of(kind.fields[name].type, chance) for name in chosen}
    simple: dict[str, Any] = {
        "Int": chance.randint(1, 100),
        "Position": 0,
        "UUID": str(UUID(int=chance.getrandbits(128), version=4)),
        "Boolean": True,
        "String": chance.choice(["posted", "eu-west", "WyJldmVudHMiLDFd"]),
    }
    return simple.get(str(kind), "1")


def selection_of(kind: GraphQLOutputType, depth: int) -> str:
    """All fields without mandatory arguments, three levels down."""
    named = get_named_type(kind)
    if not isinstance(named, GraphQLObjectType):
        return ""
    chosen = []
    for name, field in named.fields.items():
        if any(isinstance(argument.type, GraphQLNonNull) for argument in field.args.values()):
            continue
        inner = selection_of(field.type, depth - 1)
        if not isinstance(get_named_type(field.type), GraphQLObjectType) or (depth > 0 and inner):
            chosen.append(f"{name}{inner}")
    return " { " + " ".join(chosen) + " }" if chosen else ""


def test_no_argument_makes_a_query_fail(client: TestClient, chance: random.Random) -> None:
    introspected = client.post("/graphql", json={"query": get_introspection_query()}).json()
    schema: GraphQLSchema = build_client_schema(introspected["data"])
    assert schema.query_type is not None
    fields = sorted(schema.query_type.fields.items())
    answered = set()
    for number in range(9 * REQUESTS):
        name, field = fields[number % len(fields)]
        if number >= REQUESTS and name in answered:
            continue  # only those that had no luck yet
        chosen = [
            (given, argument.type)
            for given, argument in field.args.items()
            if (isinstance(argument.type, GraphQLNonNull) or chance.random() < 0.4) and given != "atLeast"
        ]
        declared = ", ".join(f"${given}: {kind}" for given, kind in chosen)
        passed = ", ".join(f"{given}: ${given}" for given, _ in chosen)
        query = f"query {'(' + declared + ')' if declared else ''} {{ {name}{'(' + passed + ')' if passed else ''}"
        query += selection_of(field.type, 3) + " }"
        variables = {given: argument_of(kind, chance) for given, kind in chosen}
        answer = client.post("/graphql", json={"query": query, "variables": variables})
        assert answer.status_code == 200, (query, variables, answer.text)
        codes = {error["extensions"]["code"] for error in answer.json().get("errors", ())}
        assert "internal_error" not in codes, (query, variables, answer.text)
        if not codes:
            answered.add(name)
    assert answered == {name for name, _ in fields}, "each query was answered at least once"
