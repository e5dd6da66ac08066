"""Operators over HTTP: they pause, rebuild, retry and skip by name and reason, and see what came of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from infrastructure.database import Database, Role
from infrastructure.discovery import registered
from infrastructure.event_store import LogReader
from projections.slots import Lease
from tests.api.office import Office, open_office
from tests.cli.villages import eventually

PROJECTIONS = """{ projections {
    name position head lag paused deadLetters waitingLetters
    partitions { partition position owner version } rebuild { begun position head deadLetters }
} }"""
LETTERS = """query($first: Int!, $after: String, $of: String) {
    deadLetters(first: $first, after: $after, projection: $of) {
        totalCount pageInfo { endCursor hasNextPage }
        edges { node { projection inRebuild key position poison error traceback triedAt setAsideAt } }
    }
}"""


@pytest.fixture
def office(database: Database, database_url: str, tmp_path: Path) -> Iterator[Office]:
    yield from open_office(database_url, database, tmp_path)


def balances(office: Office) -> dict[str, Any]:
    (found,) = [one for one in office.ask(PROJECTIONS)["projections"] if one["name"] == "balances"]
    return dict(found)


def letters(office: Office, first: int = 10, after: str | None = None, of: str | None = "balances") -> Any:
    return office.ask(LETTERS, first=first, after=after, of=of)["deadLetters"]


def grains(office: Office, account_id: UUID) -> int:
    with office.database.reader.connection() as connection:
        ((found,),) = connection.execute("SELECT grains FROM read.balances WHERE account_id = %s", (account_id,))
    return int(found)


def test_a_projection_is_paused_and_resumed_and_the_log_says_by_whom_and_why(office: Office) -> None:
    office.opened()
    office.settle()
    paused = office.post("monitoring/pause_projection", {"name": "balances", "reason": "a drill"})
    assert paused.status_code == 200, paused.text
    office.settle()
    office.opened()
    office.settle()
    found = balances(office)
    assert (found["paused"], found["lag"] > 0) == (True, True)
    with office.database.reader.connection() as connection:
        (fact,) = [record.fact() for record in LogReader(connection).at([paused.json()["position"]])]
    assert (fact.topic, fact.actor, fact.event.reason) == ("monitoring.Projection.Paused", "operator:ada", "a drill")
    office.post("monitoring/resume_projection", {"name": "balances", "reason": "it is over"})
    office.settle()
    found = balances(office)
    assert (found["paused"], found["lag"]) == (False, 0)


def test_what_cannot_be_done_to_a_projection_is_refused_by_name(office: Office) -> None:
    why = {"name": "balances", "reason": "a drill"}
    assert office.refused("monitoring/pause_projection", why | {"name": "nothing"}) == (404, "projection_unknown")
    assert office.refused("monitoring/resume_projection", why) == (422, "projection_not_paused")
    assert office.refused("monitoring/pause_projection", why | {"reason": ""}) == (422, "request_invalid")
    assert office.refused("monitoring/pause_projection", {"name": "balances"}) == (422, "request_invalid")
    letter = why | {"key": '"x"', "position": 1}
    assert office.refused("monitoring/skip_letter", letter | {"position": 0}) == (422, "request_invalid")
    office.post("monitoring/pause_projection", why)
    assert office.refused("monitoring/pause_projection", why) == (422, "projection_already_paused")
    office.post("monitoring/skip_letter", letter)
    assert office.refused("monitoring/skip_letter", letter) == (422, "letter_already_skipped")


def test_the_same_key_pauses_once_and_gets_the_first_answer(office: Office) -> None:
    why = {"name": "balances", "reason": "a drill"}
    answers = [office.post("monitoring/pause_projection", why, key="once").json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["position"] == office.log.head()


SERVICES = "{ services { service id version host pid startedAt url } }"


def test_the_health_of_the_api_is_what_readyz_looks_at(office: Office) -> None:
    office.settle()
    found = {check["name"]: check for check in office.ask("{ health { name ok ms } }")["health"]}
    ready = office.client.get("/readyz").json()
    assert set(found) == {check["name"] for check in ready["checks"]}
    assert found["database"]["ok"] is True
    assert all(check["ms"] >= 0 for check in found.values())
    assert office.code("{ health { name } }", uuid4()) == "forbidden"


def test_services_are_those_that_answer_on_the_bus(office: Office, nats_url: str) -> None:
    assert office.ask(SERVICES)["services"] == []
    with on_the_bus(office, nats_url), registered(nats_url, "worker", "1.2.3", "http://127.0.0.1:1"):

        def found() -> list[Any]:
            return [one for one in office.ask(SERVICES)["services"] if one["service"] == "worker"]

        assert eventually(lambda: len(found()) == 1)
        assert (found()[0]["version"], found()[0]["pid"]) == ("1.2.3", os.getpid())
        assert office.code(SERVICES, uuid4()) == "forbidden"


def test_a_bus_that_does_not_answer_is_named_without_its_password(office: Office) -> None:
    with on_the_bus(office, "nats://me:sesame@127.0.0.1:1"):
        answer = office.answer(SERVICES)
    assert answer["errors"][0]["extensions"]["code"] == "bus_unreachable"
    assert "sesame" not in str(answer)


@contextmanager
def on_the_bus(office: Office, url: str) -> Iterator[None]:
    """The office's settings name this bus."""
    before = office.ctx.settings
    object.__setattr__(office.ctx, "settings", before.model_copy(update={"nats_url": SecretStr(url)}))
    try:
        yield
    finally:
        object.__setattr__(office.ctx, "settings", before)


def test_only_operators_operate(office: Office) -> None:
    member, why = uuid4(), {"name": "balances", "reason": "a drill"}
    commands: dict[str, dict[str, Any]] = {
        "monitoring/pause_projection": why,
        "monitoring/resume_projection": why,
        "monitoring/rebuild_projection": why,
        "monitoring/retry_letter": why | {"key": "1"},
        "monitoring/skip_letter": why | {"key": "1", "position": 1},
        "sagas/resolve_process": {"process_id": str(uuid4()), "action": "retry", "reason": "a drill"},
    }
    for path, body in commands.items():
        assert office.refused(path, body, member) == (403, "forbidden"), path
    for query in (
        "{ projections { name } }",
        "{ deadLetters(first: 1) { totalCount } }",
        "{ sagas(first: 1) { totalCount } }",
        "{ checkpoints(first: 1) { totalCount } }",
        "{ inclusionProof(position: 1) { size } }",
        "{ consistencyProof(old: 1, new: 1) { path } }",
        f'{{ explain(stream: "{member}") {{ topic }} }}',
        f'{{ stream(id: "{member}") {{ kind }} }}',
    ):
        assert office.code(query, member) == "forbidden", query


def test_a_fact_that_cannot_be_folded_is_listed_retried_after_mending_and_gone(office: Office) -> None:
    account, other = office.opened("unlucky", 5, 7), office.opened("somebody", 3)
    office.settle()
    first = letters(office, first=1)
    assert (first["totalCount"], first["pageInfo"]["hasNextPage"]) == (2, True)
    poison, behind = [
        page["edges"][0]["node"] for page in (first, letters(office, first=1, after=first["pageInfo"]["endCursor"]))
    ]
    assert (poison["projection"], poison["inRebuild"], poison["key"]) == ("balances", False, f'"{account}"')
    assert (poison["poison"], behind["poison"], poison["triedAt"]) == (True, False, None)
    assert poison["error"] == "ValueError('cannot fold this deposit')"
    assert "Traceback" in poison["traceback"]
    assert behind["position"] == poison["position"] + 1
    assert (grains(office, account), grains(office, other)) == (0, 3)
    found = balances(office)
    assert (found["deadLetters"], found["waitingLetters"]) == (1, 1)
    assert letters(office, of="wallets")["totalCount"] == 0
    assert letters(office, of=None)["totalCount"] == 2
    office.mended.is_so = True
    retry = {"name": "balances", "key": poison["key"], "reason": "mended"}
    assert office.post("monitoring/retry_letter", retry).status_code == 200
    office.settle()
    assert letters(office)["totalCount"] == 0
    assert grains(office, account) == 12


def test_a_fact_that_is_skipped_is_left_out_and_what_waited_is_folded(office: Office) -> None:
    account = office.opened("unlucky", 5)
    office.settle()
    (letter,) = letters(office)["edges"]
    skip = {"name": "balances", "reason": "lost", "key": letter["node"]["key"], "position": letter["node"]["position"]}
    assert office.post("monitoring/skip_letter", skip).status_code == 200
    office.settle()
    assert letters(office)["totalCount"] == 0
    assert grains(office, account) == 0


def test_a_rebuild_is_seen_from_its_request_to_its_end(office: Office) -> None:
    office.opened("somebody", 4)
    office.settle()
    assert balances(office)["rebuild"] is None
    office.post("monitoring/pause_projection", {"name": "balances", "reason": "to look at it"})
    asked = office.post("monitoring/rebuild_projection", {"name": "balances", "reason": "a drill"})
    assert asked.status_code == 200, asked.text
    office.settle()
    rebuild = balances(office)["rebuild"]
    assert rebuild["head"] == office.log.head()
    assert rebuild["position"] <= rebuild["head"]
    office.post("monitoring/resume_projection", {"name": "balances", "reason": "seen"})
    for _ in range(10):
        office.settle()
    assert balances(office)["rebuild"] is None
    assert balances(office)["lag"] == 0
    assert not [one for one in office.ask(PROJECTIONS)["projections"] if one["name"].startswith("rebuild:")]


def test_a_rebuild_that_has_begun_shows_how_far_it_is_and_holds_nobody_up(office: Office) -> None:
    office.opened("somebody", 1, 2, 3)
    office.settle()
    with office.database.connect(Role.PROJECTOR) as connection:  # as the projector leaves it between two batches
        connection.execute("INSERT INTO engine.cursors (name, position) VALUES ('rebuild:balances', 2)")
    head = office.log.head()
    assert balances(office)["rebuild"] == {"begun": True, "position": 2, "head": head, "deadLetters": 0}
    ready = {check["name"]: check for check in office.client.get("/readyz").json()["checks"]}
    assert ready["consumers"]["lag_events"]["balances"] == 0
    assert "rebuild:balances" not in ready["consumers"]["lag_events"]


def test_who_holds_a_partition_is_named_until_the_lease_ends(office: Office) -> None:
    office.settle()
    (free,) = balances(office)["partitions"]
    assert free == {"partition": 0, "position": office.log.head(), "owner": None, "version": 1}
    lease = Lease("worker-7", office.models, lease_s=60)
    with office.database.connect(Role.PROJECTOR) as connection:
        lease.slots(connection)
        assert balances(office)["partitions"][0]["owner"] == "worker-7"
        lease.release(connection)
    assert balances(office)["partitions"][0]["owner"] is None
