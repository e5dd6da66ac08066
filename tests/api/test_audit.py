"""The audit over GraphQL: every proof it answers is checked with nothing but the village's public keys."""

import base64
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from domain.audit.checkpoint import Checkpoint, verify
from domain.audit.merkle import verify_consistency, verify_inclusion
from infrastructure.audit import record_hash
from infrastructure.database import Database
from infrastructure.event_store import LogReader
from tests.api.office import Office, open_office

CHECKPOINTS = """query($first: Int!, $after: String) { checkpoints(first: $first, after: $after) {
    totalCount pageInfo { endCursor hasNextPage } edges { node { size note sealedAt } }
} }"""
INCLUSION = "query($p: Position!) { inclusionProof(position: $p) { leaf leafHash size path checkpoint } }"
CONSISTENCY = "query($o: Position!, $n: Position!) { consistencyProof(old: $o, new: $n) { old new path checkpoint } }"
EXPLAIN = """query($id: UUID!) { explain(stream: $id) {
    position topic stream version eventId causationId actor recordedAt state
    proof { leaf leafHash size path checkpoint }
} }"""
STREAM = "query($id: UUID!, $at: AsOf) { stream(id: $id, asOf: $at) { stream kind version position state } }"


@pytest.fixture
def office(database: Database, database_url: str, tmp_path: Path) -> Iterator[Office]:
    yield from open_office(database_url, database, tmp_path)


def trusted(office: Office, note: str) -> Checkpoint:
    return verify(note, office.ctx.verifiers())


def hashes(path: Sequence[str]) -> list[bytes]:
    return [base64.b64decode(text, validate=True) for text in path]


def assert_included(office: Office, proof: dict[str, Any], position: int) -> None:
    with office.database.reader.connection() as connection:
        (record,) = LogReader(connection).at([position])
    root = trusted(office, proof["checkpoint"]).root
    assert base64.b64decode(proof["leafHash"]) == record_hash(record)
    verify_inclusion(position - 1, proof["size"], record_hash(record), hashes(proof["path"]), root)


def test_every_fact_is_proved_under_a_signed_checkpoint_once_it_is_sealed(office: Office) -> None:
    office.opened("somebody", *range(1, 12))
    assert office.ask(INCLUSION, p=1)["inclusionProof"] is None
    office.sealer.run_once()
    sealed = office.log.head()
    for position in range(1, sealed + 1):
        assert_included(office, office.ask(INCLUSION, p=position)["inclusionProof"], position)
    office.opened()
    for beyond in (0, sealed + 1, 2**53 - 1):
        assert office.ask(INCLUSION, p=beyond)["inclusionProof"] is None


def test_checkpoints_are_listed_and_each_is_proved_to_extend_the_former(office: Office) -> None:
    for deposits in (3, 9, 1):
        office.opened("somebody", *range(1, deposits + 1))
        office.sealer.run_once()
    page = office.ask(CHECKPOINTS, first=2)["checkpoints"]
    rest = office.ask(CHECKPOINTS, first=2, after=page["pageInfo"]["endCursor"])["checkpoints"]
    notes = [edge["node"] for edge in (*page["edges"], *rest["edges"])]
    assert [note["size"] for note in notes] == [16, 14, 4]
    assert (page["totalCount"], rest["pageInfo"]["hasNextPage"]) == (3, False)
    for new, old in pairwise(notes):
        proof = office.ask(CONSISTENCY, o=old["size"], n=new["size"])["consistencyProof"]
        assert proof["checkpoint"] == new["note"]
        roots = trusted(office, old["note"]).root, trusted(office, new["note"]).root
        verify_consistency(old["size"], new["size"], *roots, hashes(proof["path"]))


def test_a_proof_to_a_size_that_was_not_signed_or_backwards_is_not_given(office: Office) -> None:
    office.opened("somebody", 1, 2)
    office.sealer.run_once()
    assert office.ask(CONSISTENCY, o=1, n=2)["consistencyProof"] is None
    assert office.code(CONSISTENCY, o=0, n=3) == "sizes_out_of_order"
    assert office.code(CONSISTENCY, o=4, n=3) == "sizes_out_of_order"


def test_a_checkpoint_that_no_key_of_the_village_signed_proves_nothing(office: Office) -> None:
    office.opened()
    office.sealer.run_once()
    office.ctx.verifiers = list
    assert office.code(INCLUSION, p=1) == "checkpoint_not_trusted"


def test_a_stream_is_explained_with_proofs_of_what_is_sealed(office: Office) -> None:
    account = office.opened("somebody", 5)
    office.sealer.run_once()
    assert office.post("monitoring/pause_projection", {"name": "balances", "reason": "a drill"}).status_code == 200
    links = office.ask(EXPLAIN, id=str(account))["explain"]
    assert [link["topic"] for link in links] == ["testing.Account.Opened", "testing.Account.Deposited"]
    assert links[1]["state"] == {"grains": 5}
    for link in links:
        assert_included(office, link["proof"], link["position"])
    assert office.ask(EXPLAIN, id=str(uuid4()))["explain"] is None


def test_an_aggregate_is_rehydrated_as_it_was_at_any_position(office: Office) -> None:
    account = office.opened("somebody", 5, 7)
    head = office.log.head()
    known = [office.ask(STREAM, id=str(account), at={"position": at})["stream"] for at in range(head + 1)]
    assert known[: head - 2] == [None] * (head - 2)
    assert [one["state"]["balance"] for one in known[head - 2 :]] == [0, 5, 12]
    now = office.ask(STREAM, id=str(account))["stream"]
    assert now == known[-1]
    assert (now["kind"], now["version"], now["position"]) == ("testing.Account", 3, head)
    assert now["state"] == {"owner": "somebody", "balance": 12, "tags": []}
    assert office.code(STREAM, id=str(account), at={"position": head + 1}) == "position_ahead"


def test_what_operators_did_to_a_projection_can_be_rehydrated(office: Office) -> None:
    skip = {"name": "balances", "reason": "lost", "key": '"x"', "position": 1}
    answer = office.post("monitoring/skip_letter", skip).json()
    events = "query($p: Int!) { events(first: $p) { edges { node { stream topic } } } }"
    stream = office.ask(events, p=answer["position"])["events"]["edges"][-1]["node"]["stream"]
    state = office.ask(STREAM, id=stream)["stream"]
    assert state["kind"] == "monitoring.Projection"
    assert state["state"] == {"name": "balances", "paused": False, "skipped": [[1, '"x"']]}
