"""Statements, holds and the feed of a wallet, as their owner sees them."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli import tokens
from domain.tokenomics.accounts import wallet_id_of
from infrastructure.database import Database, Role
from projections.statement import entries_at
from projections.tokenomics.queries import MoneyIndex
from tests.api.edge.socket_client import socket as graphql_socket
from tests.api.test_tokenomics import Counter, counter, payment
from tests.economy import Economy

__all__ = ["counter"]

STATEMENT = """query($n: Int!, $o: UUID, $c: String, $p: Position, $t: AsOf) {
    statement(first: $n, ownerId: $o, after: $c, atLeast: $p, asOf: $t) {
        totalCount pageInfo { hasNextPage endCursor } edges { node { position kind grains balanceGrains } } } }"""


def lines(page: dict[str, Any]) -> list[tuple[str, str, str]]:
    nodes = [edge["node"] for edge in page["data"]["statement"]["edges"]]
    return [(node["kind"], node["grains"], node["balanceGrains"]) for node in nodes]


def test_a_statement_tells_every_entry_and_the_balance_after_it(counter: Counter) -> None:
    mine, theirs = counter.economy.given(1_000), counter.economy.given(0)
    first = counter.post("process_payment", payment(theirs, "400"), owner=mine).json()["position"]
    counter.post("process_payment", payment(theirs, "100", kind="service_payment"), owner=mine)
    counter.post("process_payment", payment(mine, "50"), owner=theirs)
    page = counter.ask(STATEMENT, owner=mine, n=10)
    newest_first = [
        ("payment", "50", "550"), ("service_payment", "-100", "500"), ("payment", "-400", "600"),
        ("reward", "1000", "1000"),
    ]  # fmt: skip
    assert lines(page) == newest_first
    assert page["data"]["statement"]["totalCount"] == 4
    assert lines(counter.ask(STATEMENT, owner=mine, n=10, t={"position": first})) == newest_first[2:]
    half = counter.ask(STATEMENT, owner=mine, n=2)
    assert (lines(half), half["data"]["statement"]["pageInfo"]["hasNextPage"]) == (newest_first[:2], True)
    cursor = half["data"]["statement"]["pageInfo"]["endCursor"]
    assert lines(counter.ask(STATEMENT, owner=mine, n=2, c=cursor)) == newest_first[2:]
    assert lines(counter.ask(STATEMENT, n=1, o=str(theirs))) == [("payment", "-50", "448")]


def test_a_statement_of_somebody_else_or_of_nobody_is_refused(counter: Counter) -> None:
    mine, theirs = counter.economy.given(10), counter.economy.given(20)
    for owner, named in ((mine, str(theirs)), (None, None)):
        answer = counter.ask(STATEMENT, owner=owner, n=1, o=named)
        assert answer["errors"][0]["extensions"]["code"] == "forbidden"
    assert counter.ask(STATEMENT, owner=mine, n=0)["errors"][0]["extensions"]["code"] == "page_size_invalid"


def test_holds_are_listed_with_how_they_ended(counter: Counter) -> None:
    mine, theirs = counter.economy.given(1_000), counter.economy.given(0)
    expires_at = (counter.economy.now + timedelta(hours=1)).isoformat()
    ids = [str(uuid4()) for _ in range(3)]
    for hold_id in ids:
        hold = {"hold_id": hold_id, "grains": "100", "expires_at": expires_at, "purpose": "a_job"}
        assert counter.post("hold_funds", hold, owner=mine).status_code == 200
    counter.post("capture_hold", {"hold_id": ids[0], "to_owner_id": str(theirs), "grains": "60"}, owner=mine)
    counter.post("void_hold", {"hold_id": ids[1]}, owner=mine)
    query = "query($s: String) { holds(first: 5, state: $s) { edges { node { holdId grains capturedGrains state } } } }"
    nodes = [edge["node"] for edge in counter.ask(query, owner=mine)["data"]["holds"]["edges"]]
    assert [(node["holdId"], node["state"], node["capturedGrains"]) for node in nodes] == [
        (ids[2], "open", "0"), (ids[1], "voided", "0"), (ids[0], "captured", "60"),
    ]  # fmt: skip
    assert len(counter.ask(query, owner=mine, s="open")["data"]["holds"]["edges"]) == 1
    assert counter.ask(query, owner=theirs)["data"]["holds"]["edges"] == []
    assert counter.ask(query)["errors"][0]["extensions"]["code"] == "forbidden"


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 300)), min_size=1, max_size=12))
def test_at_every_position_the_statement_ends_with_the_balance_the_log_has(
    economy: Economy, moves: list[tuple[int, int, int]]
) -> None:
    owners = [economy.given(500) for _ in range(3)]
    before = economy.log.head()
    for payer, payee, grains in moves:
        if payer != payee and economy.wallet(owners[payer]).available >= grains:
            economy.pay(owners[payer], owners[payee], grains)
    economy.projector.run_once()
    index = MoneyIndex(economy.database)
    with economy.database.connect(Role.READER) as connection:
        for position in sorted({before, economy.log.head(), (before + economy.log.head()) // 2}):
            # A command's facts share a moment: a position inside one has half of its effects.
            position = next(p for p in range(position, position + 9) if ends_a_command(economy, p))
            for owner in owners:
                entries = index.statement(wallet_id_of(owner), position, 100)
                balance = economy.service.get_wallet_balance(owner_id=owner, as_of=position).posted
                assert entries[0].balance == balance
                from_log = entries_at(connection, wallet_id_of(owner), position, 100)
                assert [(e.transfer_id, e.kind, e.grains, e.balance) for e in reversed(from_log)] == [
                    (e.transfer_id, e.kind, e.grains, e.balance) for e in entries
                ]


def ends_a_command(economy: Economy, position: int) -> bool:
    facts = economy.facts(position - 1)[:2]
    return len(facts) < 2 or facts[0].command_id != facts[1].command_id


@pytest.fixture
def economy(database_url: str, database: Database) -> Iterator[Economy]:
    made = Economy(database_url, database)
    yield made
    made.close()


def test_the_command_line_tells_the_same_from_the_log(
    economy: Economy, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = economy.given(1_000), economy.given(0)
    before = economy.log.head()
    economy.pay(mine, theirs, 400)
    monkeypatch.setenv("VILLAGE_DATABASE_URL", database_url)

    def told(*words: str) -> list[tuple[str, str, str]]:
        said = CliRunner().invoke(tokens.app, ["statement", str(mine), "--json", *words])
        assert said.exit_code == 0, said.output
        entries = [json.loads(line) for line in said.output.splitlines()]
        return [(entry["kind"], entry["grains"], entry["balance_grains"]) for entry in entries]

    assert told() == [("reward", "1000", "1000"), ("payment", "-400", "600")]
    assert told("--as-of", str(before)) == [("reward", "1000", "1000")]
    assert told("--last", "1") == [("payment", "-400", "600")]
    assert told("--as-of", "0") == []


def test_the_feed_of_a_wallet_tells_its_owner_every_change_and_nobody_else(counter: Counter) -> None:
    mine, theirs = counter.economy.given(1_000), counter.economy.given(0)
    start = counter.economy.log.head()
    counter.post("process_payment", payment(theirs, "400"), owner=mine)
    feed = "subscription($p: Position, $o: UUID) { walletActivity(after: $p, ownerId: $o) { change availableGrains } }"

    def first(owner: UUID, named: UUID | None = None) -> dict[str, Any]:
        token = counter.tokens.issue(role="member", subject=str(owner), expires_in=timedelta(hours=1))
        with graphql_socket(str(counter.client.base_url).rstrip("/"), {"token": token}) as client:
            client.subscribe(feed, p=start, o=None if named is None else str(named))
            return client.receive()

    assert first(mine)["payload"]["data"] == {"walletActivity": {"change": "debited", "availableGrains": "600"}}
    assert first(theirs)["payload"]["data"]["walletActivity"]["change"] == "credited"
    assert "somebody else" in str(first(theirs, named=mine)["payload"])


def test_a_statement_of_a_wallet_that_nothing_has_touched_is_empty(economy: Economy) -> None:
    assert MoneyIndex(economy.database).statement(wallet_id_of(UUID(int=1)), economy.log.head(), 5) == []
