"""Incidents from a real cause to their end, as operators see and answer them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from domain.harvest.policy import HarvestPolicy
from domain.harvest.states import ABANDONED, FLAPPING, STOPPED
from domain.kernel import new_scope, within
from domain.monitoring.incident import incident_id_of
from domain.monitoring.rules import RULES
from infrastructure.database import Database, Role
from projections.measures import measured
from tests.api.office import Office, open_office
from tests.devices import enrol
from workers.incident_watch import IncidentWatch

INCIDENTS = """query($state: String, $rule: String) { incidents(first: 10, state: $state, rule: $rule) { edges { node {
    incidentId rule subject number severity state summary value limitValue acknowledgedBy note resolvedBy reason
} } } }"""


class Watched:
    """An office, its watch, and the time it has."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.now = datetime.now(UTC)
        self.watch = IncidentWatch(office.village.monitoring, office.database, clock=lambda: self.now)

    def looks(self, after_s: int = 0) -> int:
        self.now += timedelta(seconds=after_s)
        changed = self.watch.tick()
        self.office.settle()
        return changed

    def incidents(self, state: str | None = None, rule: str | None = "dead_letters") -> list[dict[str, Any]]:
        edges = self.office.ask(INCIDENTS, state=state, rule=rule)["incidents"]["edges"]
        return [edge["node"] for edge in edges]

    def poison(self) -> str:
        self.office.opened("unlucky", 5)
        self.office.settle()
        self.looks()
        (incident,) = self.incidents("opened")
        return str(incident["incidentId"])


@pytest.fixture
def watched(database: Database, database_url: str, tmp_path: Path) -> Iterator[Watched]:
    for office in open_office(database_url, database, tmp_path):
        yield Watched(office)


def test_a_poisoned_read_model_opens_an_incident_that_is_acknowledged_and_ends_when_it_is_mended(
    watched: Watched,
) -> None:
    incident_id, office = watched.poison(), watched.office
    (found,) = watched.incidents()
    assert (found["subject"], found["number"], found["value"], found["limitValue"]) == ("balances", 1, 1.0, 0.0)
    assert watched.looks(1) == 0, "it is open already"
    noted = office.post("monitoring/acknowledge_incident", {"incident_id": incident_id, "note": "ada looks"})
    assert noted.status_code == 200, noted.text
    office.settle()
    (found,) = watched.incidents("acknowledged")
    assert (found["acknowledgedBy"], found["note"]) == ("operator:ada", "ada looks")
    office.mended.is_so = True
    (letter,) = office.ask('{ deadLetters(first: 1, projection: "balances") { edges { node { key } } } }')[
        "deadLetters"
    ]["edges"]
    office.post("monitoring/retry_letter", {"name": "balances", "key": letter["node"]["key"], "reason": "mended"})
    office.settle()
    assert watched.looks(1) == 0, "it is not clear for long enough"
    assert watched.looks(60) == 1
    (found,) = watched.incidents("resolved")
    assert (found["resolvedBy"], found["reason"]) == ("system:watch", "the measure is back at 0")


def test_an_incident_resolved_while_its_cause_stands_is_followed_by_the_next(watched: Watched) -> None:
    incident_id, office = watched.poison(), watched.office
    done = office.post("monitoring/resolve_incident", {"incident_id": incident_id, "reason": "not mine"})
    assert done.status_code == 200, done.text
    office.settle()
    assert watched.looks(1) == 1
    assert [(one["number"], one["state"]) for one in watched.incidents()] == [(2, "opened"), (1, "resolved")]


def test_two_watches_open_one_incident(watched: Watched) -> None:
    watched.office.opened("unlucky", 5)
    watched.office.settle()
    other = IncidentWatch(watched.office.village.monitoring, watched.office.database)
    for watch in (watched.watch, other):  # before the read model shows the first
        watch.tick()
    watched.office.settle()
    assert len(watched.incidents()) == 1


def test_what_cannot_be_said_of_an_incident_is_refused_by_name(watched: Watched) -> None:
    incident_id, office = watched.poison(), watched.office
    note = {"incident_id": incident_id, "note": "ada looks"}
    assert office.refused("monitoring/acknowledge_incident", note, uuid4()) == (403, "forbidden")
    unknown = note | {"incident_id": str(uuid4())}
    assert office.refused("monitoring/acknowledge_incident", unknown) == (404, "incident_unknown")
    assert office.refused("monitoring/acknowledge_incident", note | {"note": ""}) == (422, "request_invalid")
    office.post("monitoring/acknowledge_incident", note)
    assert office.refused("monitoring/acknowledge_incident", note) == (422, "incident_already_acknowledged")
    reason = {"incident_id": incident_id, "reason": "mended"}
    office.post("monitoring/resolve_incident", reason)
    assert office.refused("monitoring/resolve_incident", reason) == (422, "incident_resolved")
    assert office.code("{ incidents(first: 1) { totalCount } }", uuid4()) == "forbidden"


def test_the_feed_tells_what_happens_to_incidents_in_order(watched: Watched) -> None:
    incident_id = watched.poison()
    watched.office.post("monitoring/resolve_incident", {"incident_id": incident_id, "reason": "mended"})
    query = "subscription { incidents(after: 0) { what rule subject actor text incidentId } }"
    headers = watched.office.headers()
    updates = []
    with watched.office.client.websocket_connect(
        "/graphql", subprotocols=["graphql-transport-ws"], headers=headers
    ) as socket:
        socket.send_json({"type": "connection_init", "payload": {"Authorization": headers["Authorization"]}})
        assert socket.receive_json()["type"] == "connection_ack"
        socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": query}})
        for _ in range(2):
            updates.append(socket.receive_json()["payload"]["data"]["incidents"])
    assert [(one["what"], one["actor"], one["text"]) for one in updates] == [
        ("Opened", "system:watch", "a read model holds facts it cannot fold"),
        ("Resolved", "operator:ada", "mended"),
    ]
    assert {one["incidentId"] for one in updates} == {incident_id}


HEALTH = "query($id: UUID!) { device(deviceId: $id) { health { openIncidents } } }"


def failed(office: Office, device_id: UUID, times: int, reason: str = ABANDONED) -> None:
    """A device's sessions of harvest, each of which ended so."""
    for _ in range(times):
        with within(new_scope("test")):
            session_id = office.village.harvest.start_harvest_session(
                device_id=device_id, policy=HarvestPolicy(unknown_sensor="allow"), sensors=[]
            ).id
        assert session_id is not None
        with within(new_scope("test")):
            office.village.harvest.close_session(session_id=session_id, reason=reason)


def test_a_device_whose_harvest_keeps_failing_is_an_incident_that_its_owner_sees(watched: Watched) -> None:
    office, owner = watched.office, uuid4()
    device_id, other = (enrol(office.village.device_registry, owner_id=owner) for _ in range(2))
    failed(office, device_id, 2)
    failed(office, other, 9, STOPPED)
    office.settle()
    watched.looks()
    assert watched.incidents(rule="device_failing") == [], "twice is chance, and who stops does not fail"
    failed(office, device_id, 1, FLAPPING)
    office.settle()
    watched.looks()
    (found,) = watched.incidents(rule="device_failing")
    assert (found["subject"], found["value"], found["severity"]) == (str(device_id), 3.0, "warning")
    assert office.ask(HEALTH, owner, id=str(device_id))["device"]["health"] == {"openIncidents": 1}
    assert office.ask(HEALTH, owner, id=str(other))["device"]["health"] == {"openIncidents": 0}


def test_every_rule_is_about_something_that_is_measured(watched: Watched, database_url: str) -> None:
    office = watched.office
    office.opened("process")
    device_id = enrol(office.village.device_registry)
    failed(office, device_id, 1)
    office.settle()
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("UPDATE read.sagas SET state = 'parked'")
        admin.execute("INSERT INTO engine.cursors (name, position) VALUES ('late', 0) ON CONFLICT DO NOTHING")
    with office.database.connect(Role.READER) as connection:
        found = {(one.name, one.subject): one.value for one in measured(connection)}
    assert found["supply_drift_grains", "supply"] == 0.0
    assert found["parked_sagas", "delivery"] == 1.0
    assert found["consumer_lag_s", "late"] > 0.0
    assert found["seal_age_s", "log"] > 0.0
    assert found["devices_away_bp", "fleet"] == 10_000.0, "its one device was never heard of"
    assert found["device_failures", str(device_id)] == 1.0
    measures_of_nothing = {"dead_letters", "bus_dead_letters"}  # nobody has any: no subject
    assert {rule.measure for rule in RULES} == {name for name, _ in found} | measures_of_nothing


def test_a_grain_that_nobody_issued_is_an_incident_at_once(watched: Watched, database_url: str) -> None:
    office = watched.office
    office.settle()
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("INSERT INTO read.accounts VALUES (gen_random_uuid(), 'nobody', 7, 1, 1)")
    watched.looks()
    (found,) = watched.incidents(rule="supply_drift")
    assert (found["severity"], found["value"]) == ("critical", 7.0)
    assert found["incidentId"] == str(incident_id_of("supply_drift", "supply", 1))
