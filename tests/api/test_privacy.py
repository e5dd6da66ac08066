"""A person is erased: before it, who may read their words reads them; after it nobody does, and all else goes on."""

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from domain.kernel import new_scope, within
from domain.privacy.subject import Subject
from domain.tokenomics.pricing import Activity
from domain.tokenomics.transfer import Transfer
from infrastructure.audit import audit
from infrastructure.bus import Bus
from infrastructure.database import Database, Role
from projections.catalogue import READ_MODELS
from projections.replay import compare
from tests.api.office import Office, open_office
from tests.bus import fresh_bus, stored
from tests.running import names, records
from workers.bus_relay import BusRelay

SECRET = "Confidential-7731 é"
MEMOS = """query($who: UUID, $at: AsOf) { transfers(first: 10, account: $who, asOf: $at) { edges { node {
    kind note memo { subject text erased } movedGrains } } } }"""
STATES = """query($topics: [String!]) { events(first: 100, topics: $topics) { edges { node { position state } } } }"""
FEED = "subscription($topics: [String!]) { events(after: 0, topics: $topics) { position state } }"
EXPLAIN = "query($id: UUID!) { explain(stream: $id) { topic state } }"
ERASED = "{ erasedSubjects(first: 10) { totalCount edges { node { subjectId reason actor } } } }"
POSTED = [Transfer.Posted.TOPIC]  # type: ignore[attr-defined]


@pytest.fixture
def office(database: Database, database_url: str, tmp_path: Path) -> Iterator[Office]:
    yield from open_office(database_url, database, tmp_path)


def owner(office: Office) -> UUID:
    """Somebody who has earned something."""
    owner_id = uuid4()
    with within(new_scope("test")):
        claim = office.village.tokenomics.accrue_reward(
            activity=Activity("fl_participation", uuid4(), uuid4(), owner_id, 3_600_000, 10_000)
        )
        assert claim.id is not None
    with within(new_scope("test")):
        office.village.tokenomics.distribute_rewards(batch_id=uuid4(), claim_ids=[claim.id])
    return owner_id


def pay(office: Office, payer: UUID, payee: UUID, memo: str = SECRET, key: str | None = None) -> Any:
    body = {"to_owner_id": str(payee), "grains": "5", "memo": memo}
    return office.post("tokenomics/process_payment", body, payer, key)


def erase(office: Office, subject: UUID, reason: str = "asked for it") -> Any:
    return office.post("privacy/erase_subject", {"subject_id": str(subject), "reason": reason})


def memos(office: Office, who: UUID | None = None, **variables: Any) -> list[Any]:
    office.settle()
    answer = office.ask(MEMOS, who, **variables)["transfers"]["edges"]
    return [edge["node"]["memo"] for edge in answer if edge["node"]["kind"] == "payment"]


def feed(office: Office, count: int) -> list[Any]:
    """The states of the first transfers, as an operator's subscription tells them."""
    with office.client.websocket_connect("/graphql", subprotocols=["graphql-transport-ws"]) as socket:
        token = office.headers()["Authorization"]
        socket.send_json({"type": "connection_init", "payload": {"Authorization": token}})
        assert socket.receive_json()["type"] == "connection_ack"
        payload = {"query": FEED, "variables": {"topics": POSTED}}
        socket.send_json({"id": "1", "type": "subscribe", "payload": payload})
        return [socket.receive_json()["payload"]["data"]["events"]["state"] for _ in range(count)]


def rows(database: Database) -> dict[str, dict[Any, Any]]:
    with database.connect(Role.READER) as connection:
        return {
            model.name: {model.key_of(row := model.read(record)): row for record in connection.execute(model.select())}
            for model in READ_MODELS
        }


def everything(url: str) -> bytes:
    """All rows of all tables, as text and with their bytes as they are."""
    found = []
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for table in tables:
            for form in ("TEXT", "BINARY"):
                query = sql.SQL("COPY {} TO STDOUT (FORMAT {})").format(sql.Identifier(*table), sql.SQL(form))
                with connection.cursor().copy(query) as copy:
                    found += list(map(bytes, copy))
    return b"".join(found)


def test_payer_payee_and_operator_read_a_memo_and_nobody_else_sees_it(office: Office) -> None:
    payer, payee, other = owner(office), owner(office), owner(office)
    assert pay(office, payer, payee).status_code == 200
    told = {"subject": str(payer), "text": SECRET, "erased": False}
    assert [memos(office, who) for who in (payer, payee, None, other)] == [[told], [told], [told], []]
    assert pay(office, payer, payee, memo="").status_code == 200
    assert memos(office, payee) == [None, told]


def test_the_words_are_in_no_table_no_answer_and_on_no_bus(
    office: Office, database_url: str, tmp_path: Path, nats_url: str
) -> None:
    payer, payee = owner(office), owner(office)
    first = pay(office, payer, payee, key="once")
    again = pay(office, payer, payee, key="once")
    assert first.json() == again.json()
    assert names(database_url).count("Posted") == 6  # the genesis, two claims, their two transfers, one payment
    assert memos(office, payee)[0]["text"] == SECRET
    office.sealer.run_once()
    dumped = everything(database_url)
    assert str(payer).encode() in dumped, "the dump holds what is there"
    with fresh_bus(nats_url) as bus:
        published = on(bus, office, tmp_path)
    assert any(b"ciphertext" in message for message in published)
    request = b"/v1/tokenomics/process_payment\n" + first.request.content
    assert hmac.digest(office.ctx.keys.request, request, "sha256") in dumped, "the request is told from others"
    guessed = hashlib.sha256(request).digest()
    for secret in (SECRET.encode(), SECRET[:12].encode(), SECRET.encode().hex().encode(), guessed):
        assert all(secret not in kept for kept in (dumped, first.content, *published))


def on(bus: Bus, office: Office, home: Path) -> list[bytes]:
    """Every message, headers and all."""
    relay = BusRelay(office.database, bus, office.ctx.blobs, origin="test")
    relay.run_once()
    relay.close()
    return [bytes(message.data or b"") + repr(message.headers).encode() for message in stored(bus)]


def test_after_the_erasure_every_reader_finds_a_tombstone_in_the_present_and_in_the_past(office: Office) -> None:
    payer, payee = owner(office), owner(office)
    paid = pay(office, payer, payee).json()
    pay(office, payee, payer, memo="thanks")
    then = {"position": office.log.head()}
    told = {"subject": str(payer), "text": SECRET, "erased": False}
    kept = {"subject": str(payee), "text": "thanks", "erased": False}
    assert [state["memo"] for state in feed(office, 5)] == [None, None, None, told, kept]

    assert erase(office, payer).status_code == 200
    office.settle()
    assert office.eraser.tick() == 1

    tombstone = {"subject": str(payer), "text": None, "erased": True}
    for who in (payer, payee, None):
        assert memos(office, who) == [kept, tombstone]
        assert memos(office, who, at=then) == [kept, tombstone]
    assert [state["memo"] for state in feed(office, 5)] == [None, None, None, tombstone, kept]
    listed = office.ask(STATES, topics=POSTED)["events"]["edges"]
    assert [edge["node"]["state"]["memo"] for edge in listed] == [None, None, None, tombstone, kept]
    explained = office.ask(EXPLAIN, id=paid["id"])["explain"]
    assert [link["state"]["memo"] for link in explained if link["topic"] == POSTED[0]] == [tombstone]
    assert office.code(STATES, payer, topics=POSTED) == "forbidden"


def test_an_erased_person_pays_on_but_says_nothing_any_more(office: Office) -> None:
    payer, payee = owner(office), owner(office)
    pay(office, payer, payee)
    erase(office, payer)
    office.settle()
    office.eraser.tick()
    body = {"to_owner_id": str(payee), "grains": "5", "memo": "once more"}
    assert office.refused("tokenomics/process_payment", body, payer) == (410, "subject_erased")
    assert pay(office, payer, payee, memo="").status_code == 200
    assert pay(office, payee, payer, memo="hello?").status_code == 200


def test_the_chain_and_every_read_model_are_as_they_were(office: Office, database_url: str) -> None:
    payer, payee = owner(office), owner(office)
    pay(office, payer, payee)
    office.settle()
    office.sealer.run_once()
    sealed, before, stored_before = office.log.head(), rows(office.database), records(database_url)

    erase(office, payer)
    office.settle()
    office.eraser.tick()
    office.sealer.run_once()

    assert records(database_url)[:sealed] == stored_before
    with office.database.connect(Role.READER) as connection:
        verdict = audit(connection, office.ctx.verifiers())
        assert (verdict.honest, verdict.sealed) == (True, office.log.head())
        assert verdict.sealed == sealed + 1
        assert compare(connection, READ_MODELS).differences == []
    live = rows(office.database)
    assert {name: row for name, row in live.items() if name != "subjects"} == {
        name: row for name, row in before.items() if name != "subjects"
    }
    for model in READ_MODELS:
        answer = office.post("monitoring/rebuild_projection", {"name": model.name, "reason": "after an erasure"})
        assert answer.status_code == 200
    office.settle()
    rebuilt = rows(office.database)
    with office.database.connect(Role.READER) as connection:
        assert connection.execute("SELECT count(*) FROM engine.cursors WHERE name LIKE 'rebuild:%'").fetchone() == (0,)
        assert connection.execute(
            "SELECT bool_and(rebuilt_at > 0) FROM engine.cursors WHERE name = ANY(%s)",
            ([model.name for model in READ_MODELS if model.name != "projection_controls"],),
        ).fetchone() == (True,)
    controls = "projection_controls"
    assert {name: row for name, row in rebuilt.items() if name != controls} == {
        name: row for name, row in live.items() if name != controls
    }
    with office.database.connect(Role.READER) as connection:
        assert compare(connection, READ_MODELS).differences == []


def test_an_erasure_is_recorded_once_by_an_operator_and_told(office: Office, database_url: str) -> None:
    subject = uuid4()
    first, again = erase(office, subject), erase(office, subject, "again")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == {"position": 1, "id": str(subject)}
    (fact,) = [record.fact() for record in records(database_url)]
    assert (fact.event.subject, fact.event.reason, fact.actor) == (subject, "asked for it", "operator:ada")
    assert fact.stream == Subject.create_id(subject)
    office.settle()
    told = office.ask(ERASED)["erasedSubjects"]
    assert told["totalCount"] == 1
    assert told["edges"][0]["node"] == {"subjectId": str(subject), "reason": "asked for it", "actor": "operator:ada"}
    one = "query($id: UUID!, $at: AsOf) { erasedSubject(subjectId: $id, asOf: $at) { reason } }"
    for at, found in ((1, {"reason": "asked for it"}), (0, None)):
        assert office.ask(one, id=str(subject), at={"position": at})["erasedSubject"] == found
    assert office.ask(one, id=str(subject))["erasedSubject"] == {"reason": "asked for it"}
    assert office.ask(one, id=str(uuid4()))["erasedSubject"] is None


def test_only_operators_erase_and_see_who_is_erased(office: Office) -> None:
    member = uuid4()
    path, body = "privacy/erase_subject", {"subject_id": str(member), "reason": "mine"}
    assert office.refused(path, body, member) == (403, "forbidden")
    assert office.refused(path, {**body, "reason": ""}) == (422, "request_invalid")
    assert office.code(ERASED, member) == "forbidden"
