"""Sagas over HTTP: how they stand, what they did and wait for, and an operator's decision over a parked one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from infrastructure.database import Database
from tests.api.office import Office, open_office

SAGAS = """query($first: Int!, $after: String, $state: String, $at: AsOf) {
    sagas(first: $first, after: $after, state: $state, asOf: $at) {
        totalCount pageInfo { endCursor hasNextPage } edges { node { sagaId kind state step reason steps } }
    }
}"""
SAGA = """query($id: UUID!) { saga(sagaId: $id) {
    state startedAt updatedAt correlationId position deadlines { kind dueAt token }
    timeline(first: 50) { totalCount edges { node { topic position actor state } } }
} }"""


@pytest.fixture
def office(database: Database, database_url: str, tmp_path: Path) -> Iterator[Office]:
    yield from open_office(database_url, database, tmp_path)


def parked(office: Office) -> str:
    """The id of a process that an operator is wanted for."""
    office.opened("process")
    office.settle()
    newest = office.ask(SAGAS, first=1, state="parked")["sagas"]["edges"][0]["node"]
    return str(newest["sagaId"])


def decision(process_id: str | UUID, action: str = "retry") -> dict[str, Any]:
    return {"process_id": str(process_id), "action": action, "reason": "a drill"}


def test_a_parked_process_shows_its_steps_and_deadline_and_goes_on_when_it_is_resolved(office: Office) -> None:
    process_id = parked(office)
    saga = office.ask(SAGA, id=process_id)["saga"]
    steps = [edge["node"] for edge in saga["timeline"]["edges"]]
    assert [step["topic"].rpartition(".")[2] for step in steps] == ["Began", "StepDone", "Parked"]
    assert (steps[-1]["state"]["reason"], steps[-1]["position"]) == ("not_mended", saga["position"])
    assert saga["timeline"]["totalCount"] == 3
    assert [one["kind"] for one in saga["deadlines"]] == ["process:delivery"]
    office.mended.is_so = True
    answer = office.post("sagas/resolve_process", decision(process_id))
    assert answer.status_code == 200, answer.text
    office.settle()
    saga = office.ask(SAGA, id=process_id)["saga"]
    assert (saga["state"], saga["deadlines"]) == ("completed", [])
    steps = [edge["node"] for edge in saga["timeline"]["edges"]]
    assert [step["topic"].rpartition(".")[2] for step in steps][3:] == ["Resolved", "StepDone", "Completed"]
    assert (steps[3]["actor"], steps[3]["state"]["reason"]) == ("operator:ada", "a drill")


def test_what_cannot_be_resolved_is_refused_by_name(office: Office) -> None:
    process_id = parked(office)
    assert office.refused("sagas/resolve_process", decision(uuid4())) == (404, "aggregate_not_found")
    assert office.refused("sagas/resolve_process", decision(process_id, "forget")) == (422, "action_unknown")
    assert office.refused("sagas/resolve_process", decision(process_id, "compensate")) == (422, "pivot_passed")
    office.post("sagas/resolve_process", decision(process_id, "abandon"))
    assert office.refused("sagas/resolve_process", decision(process_id)) == (422, "process_not_parked")


def test_sagas_are_listed_from_the_one_that_moved_last_by_state(office: Office) -> None:
    first, second, third = (parked(office) for _ in range(3))
    office.post("sagas/resolve_process", decision(second, "abandon"))
    office.settle()
    page = office.ask(SAGAS, first=2)["sagas"]
    assert [edge["node"]["sagaId"] for edge in page["edges"]] == [second, third]
    assert (page["totalCount"], page["pageInfo"]["hasNextPage"]) == (3, True)
    rest = office.ask(SAGAS, first=2, after=page["pageInfo"]["endCursor"])["sagas"]
    assert [edge["node"]["sagaId"] for edge in rest["edges"]] == [first]
    by_state = office.ask(SAGAS, first=5, state="compensated")["sagas"]
    assert [edge["node"]["sagaId"] for edge in by_state["edges"]] == [second]


def test_a_saga_nobody_knows_is_null(office: Office) -> None:
    assert office.ask(SAGA, id=str(uuid4()))["saga"] is None


def test_sagas_are_answered_as_they_were_with_the_steps_they_had_then(office: Office) -> None:
    query = """query($id: UUID!, $at: AsOf) { saga(sagaId: $id, asOf: $at) {
        state step steps updatedAt timeline(first: 50) { totalCount edges { node { topic } } } } }"""
    process_id, seen = parked(office), []
    for action in ("retry", "abandon"):
        listed = office.ask(SAGAS, first=10)
        seen.append((office.log.head(), listed, office.ask(query, id=process_id)))
        office.post("sagas/resolve_process", decision(process_id, action))
        office.settle()
    for position, listed, saga in seen:
        assert office.ask(SAGAS, first=10, at={"position": position}) == listed
        assert office.ask(query, id=process_id, at={"position": position}) == saga
    waits = "query($id: UUID!, $at: AsOf) { saga(sagaId: $id, asOf: $at) { deadlines { kind } } }"
    assert office.code(waits, id=process_id, at={"position": seen[0][0]}) == "not_of_the_past"


FEED = """subscription($id: UUID, $after: Position) { sagas(sagaId: $id, after: $after) {
    position change saga { sagaId kind state step reason steps } } }"""


def told(office: Office, owner: UUID | None = None, *, count: int = 1, **asked: Any) -> list[dict[str, Any]]:
    """The first messages of the feed."""
    headers = office.headers(owner)
    with office.client.websocket_connect("/graphql", ["graphql-transport-ws"], headers=headers) as socket:
        socket.send_json({"type": "connection_init", "payload": {"Authorization": headers["Authorization"]}})
        assert socket.receive_json()["type"] == "connection_ack"
        socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": FEED, "variables": asked}})
        return [socket.receive_json()["payload"] for _ in range(count)]


def test_the_feed_tells_every_step_of_sagas_and_goes_on_where_it_was_cut_off(office: Office) -> None:
    first, second = parked(office), parked(office)
    office.post("sagas/resolve_process", decision(first, "abandon"))
    found = [one["data"]["sagas"] for one in told(office, count=7, after=0)]
    assert [(one["saga"]["sagaId"], one["change"], one["saga"]["state"]) for one in found] == [
        (first, "Began", "running"), (first, "StepDone", "running"), (first, "Parked", "parked"),
        (second, "Began", "running"), (second, "StepDone", "running"), (second, "Parked", "parked"),
        (first, "Resolved", "compensated"),
    ]  # fmt: skip
    assert (found[2]["saga"]["kind"], found[2]["saga"]["reason"]) == ("delivery", "not_mended")
    assert [one["saga"]["steps"] for one in found] == [1, 2, 3, 1, 2, 3, 4]
    (resumed,) = told(office, after=found[5]["position"])
    assert resumed["data"]["sagas"] == found[6]
    of_one = told(office, count=4, after=0, id=first)
    assert [one["data"]["sagas"] for one in of_one] == [*found[:3], found[6]]


def test_the_feed_of_sagas_is_for_operators(office: Office) -> None:
    parked(office)
    assert "forbidden" in str(told(office, uuid4(), after=0))
