"""What is one owner's, as another member and another's device meet it: by every query, feed and command there is."""

from typing import Any, cast

import pytest
from fastapi.routing import iter_route_contexts
from graphql import GraphQLField, GraphQLObjectType

from api.edge.gate import GatedRoute
from api.edge.principals import Role
from tests.api.aimed import OF_THEIR_OWN, aimed
from tests.api.edge.socket_client import socket
from tests.api.estate import Estate, estate

__all__ = ["estate"]

OF_ALL = {"offerings", "offering", "supply", "epochs"}
"""What everybody may see of everybody."""
OF_NO_OWNER = {"supply", "epochs"}
OF_OPERATORS = {
    "checkpoints", "consistencyProof", "deadLetters", "dealings", "erasedSubject", "erasedSubjects", "events",
    "explain", "health", "incident", "incidents", "inclusionProof", "projections", "saga", "sagas", "services",
    "stream",
}  # fmt: skip
FEED_REFUSALS = {"forbidden", "contract_unknown", "harvest_session_unknown", "training_session_unknown"}
STRANGERS: tuple[Role, ...] = ("member", "device")


def fields(kind: GraphQLObjectType | None) -> list[tuple[str, GraphQLField]]:
    assert kind is not None
    return sorted(kind.fields.items())


def counts(data: Any) -> list[int]:
    """Every `totalCount` in an answer."""
    if isinstance(data, dict):
        own = [data["totalCount"]] if "totalCount" in data else []
        return own + [number for value in data.values() for number in counts(value)]
    return [number for value in data for number in counts(value)] if isinstance(data, list) else []


def test_no_query_shows_a_stranger_what_is_another_owner_s(estate: Estate) -> None:
    seen, forbidden = set(), set()
    for name, field in fields(estate.schema().query_type):
        for past in (False, True) if "asOf" in field.args else (False,):
            query, variables = estate.asking(name, field, past=past)
            if estate.shown(estate.ask(f"query {query}", "operator", variables).get("data")):
                seen.add(name)
            for role in STRANGERS:
                answer = estate.ask(f"query {query}", role, variables)
                codes = {error["extensions"]["code"] for error in answer.get("errors", ())}
                assert codes <= {"forbidden"}, (name, role, answer)
                if codes:
                    forbidden.add(name)
                elif name not in OF_ALL:
                    assert estate.shown(answer["data"]) == set(), (name, role, past, answer)
                    assert sum(counts(answer["data"])) <= 1, (name, role, past, "more than its own is counted")
    assert forbidden >= OF_OPERATORS
    hidden = {name for name, _ in fields(estate.schema().query_type)} - OF_OPERATORS - OF_NO_OWNER - seen
    assert hidden == set(), "what an operator does not see proves nothing"


def test_no_feed_tells_a_stranger_what_is_another_owner_s(estate: Estate) -> None:
    for name, field in fields(estate.schema().subscription_type):
        query, variables = estate.asking(name, field)
        headers = estate.as_whom("member")["headers"]
        with socket(estate.url, {"token": headers["Authorization"].removeprefix("Bearer ")}) as client:
            client.send(id="1", type="subscribe", payload={"query": f"subscription {query}", "variables": variables})
            (error,) = client.receive()["payload"]["errors"]
        assert error["extensions"]["code"] in FEED_REFUSALS, (name, error)


def commands(estate: Estate, role: Role) -> set[str]:
    """The commands that this role may give at all."""
    routes = [route.original_route for route in iter_route_contexts(cast(Any, estate.stall.office.client.app).routes)]
    own = [route for route in routes if isinstance(route, GatedRoute) and "POST" in (route.methods or ())]
    return {route.path for route in own if role in route.access.roles} - {"/graphql"}


@pytest.mark.parametrize("role", STRANGERS)
def test_no_command_reaches_what_is_another_owner_s(estate: Estate, role: Role) -> None:
    bodies, allowed = aimed(estate.things)[role], commands(estate, role)
    assert {f"/v1/{name}" for name in (*bodies, *OF_THEIR_OWN[role])} == allowed
    head = estate.stall.office.log.head()
    for name, body in bodies.items():
        answer = estate.post(f"/v1/{name}", body, role)
        assert answer.status_code in (403, 404) or answer.json()["code"] == "not_of_receipt", (name, answer.text)
        assert estate.stall.office.log.head() == head, name
    for path in commands(estate, "operator") - allowed:
        assert estate.post(path, {}, role).json()["code"] == "forbidden", path
