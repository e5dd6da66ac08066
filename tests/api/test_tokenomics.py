"""Tokenomics as clients see it: real uvicorn, real Postgres, commands by REST and reads by GraphQL."""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import httpx2
import pytest

from api import tokenomics
from api.app import create_app
from api.edge.context import ApiContext
from api.edge.principals import Tokens
from api.server import listen, server
from domain.kernel.tokens import MAX_GRAINS
from domain.tokenomics.accounts import wallet_id_of
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from tests.devices import Directory
from tests.economy import Economy


@dataclass
class Counter:
    """The API of an economy, and the means to be anybody at it."""

    economy: Economy
    client: httpx2.Client
    tokens: Tokens

    def headers(self, owner: UUID | None = None, key: str | None = None) -> dict[str, str]:
        """An operator's, or a member's; with a new idempotency key by default."""
        role, subject = ("operator", "ada") if owner is None else ("member", str(owner))
        token = self.tokens.issue(role=role, subject=subject, expires_in=timedelta(hours=1))
        return {"Authorization": f"Bearer {token}", "Idempotency-Key": key or str(uuid4())}

    def post(self, path: str, body: Any, owner: UUID | None = None, key: str | None = None) -> httpx2.Response:
        return self.client.post(f"/v1/tokenomics/{path}", json=body, headers=self.headers(owner, key))

    def ask(self, query: str, owner: UUID | None = None, **variables: Any) -> dict[str, Any]:
        self.economy.projector.run_once()
        answer = self.client.post(
            "/graphql", json={"query": query, "variables": variables}, headers=self.headers(owner)
        )
        assert answer.status_code == 200, answer.text
        return cast(dict[str, Any], answer.json())


@dataclass
class Services:
    """The part of the village these routes command."""

    tokenomics: Any


@pytest.fixture
def counter(database: Database, database_url: str, tmp_path: Path) -> Iterator[Counter]:
    economy = Economy(database_url, database)
    economy.now = datetime.now(UTC)
    ctx = ApiContext(
        village=cast(Any, Services(economy.service)),
        database=database,
        blobs=BlobStore.open(None, home=tmp_path),
        keys=load_keys(tmp_path),
        settings=Settings(home=tmp_path),
        devices=Directory(),
        subject_keys=economy.keys,
    )
    socket, url = listen("127.0.0.1", 0)
    serving = server(create_app(ctx, [tokenomics]))
    thread = threading.Thread(target=serving.run, args=([socket],))
    thread.start()
    ends = time.monotonic() + 60
    while not serving.started and time.monotonic() < ends:
        time.sleep(0.005)
    assert serving.started, "the server did not start"
    with httpx2.Client(base_url=url, timeout=60) as client:
        yield Counter(economy, client, Tokens(ctx.keys))
    serving.should_exit = True
    thread.join(60)
    economy.close()
    assert not thread.is_alive(), "the server did not stop"


def payment(to: UUID, grains: Any = "400", **more: Any) -> dict[str, Any]:
    return {"to_owner_id": str(to), "grains": grains, **more}


def test_a_member_pays_from_its_own_wallet_and_reads_the_balance_back(counter: Counter) -> None:
    payer, payee = counter.economy.given(1_000), counter.economy.given(0)
    answer = counter.post("process_payment", payment(payee), owner=payer)
    assert answer.status_code == 200, answer.text
    receipt = answer.json()
    assert (receipt["grains"], receipt["fee_grains"]) == ("400", "0")
    query = "query($o: UUID!, $p: Position) { wallet(ownerId: $o, atLeast: $p) { postedGrains availableGrains } }"
    wallet = counter.ask(query, owner=payer, o=str(payer), p=receipt["position"])["data"]["wallet"]
    assert wallet == {"postedGrains": "600", "availableGrains": "600"}


BEYOND = str(MAX_GRAINS + 1)
BAD_AMOUNTS = [
    ("-1", "amount_not_positive"),
    ("0", "amount_not_positive"),
    (BEYOND, "amount_too_large"),
    ("9" * 4_000, "amount_too_large"),
    ("1.5", "amount_fractional"),
    ("-0.5", "amount_fractional"),
    ("1e3", "request_invalid"),
    ("１２", "request_invalid"),
    (400, "request_invalid"),
    (1.5, "request_invalid"),
    (None, "request_invalid"),
    ("four", "request_invalid"),
    ("1001", "insufficient_funds"),
]


@pytest.mark.parametrize(("grains", "code"), BAD_AMOUNTS)
def test_a_bad_amount_is_refused_by_name_and_nothing_is_recorded(counter: Counter, grains: Any, code: str) -> None:
    payer, payee = counter.economy.given(1_000), counter.economy.given(0)
    head = counter.economy.log.head()
    answer = counter.post("process_payment", payment(payee, grains), owner=payer)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert "errors" not in answer.json() or answer.json()["errors"][0]["field"] == "grains"
    assert counter.economy.log.head() == head


def test_what_cannot_be_paid_is_refused_by_name_and_nothing_is_recorded(counter: Counter) -> None:
    payer, payee = counter.economy.given(1_000), counter.economy.given(0)
    head = counter.economy.log.head()
    refused = {
        "self_payment": (payment(payer), payer, 422),
        "wallet_unknown": (payment(uuid4()), payer, 404),
        "forbidden": (payment(payee, from_owner_id=str(payee)), payer, 403),
        "owner_missing": (payment(payee), None, 422),
        "request_invalid": (payment(payee, tip="5"), payer, 422),
    }
    for code, (body, who, status) in refused.items():
        answer = counter.post("process_payment", body, owner=who)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert counter.economy.log.head() == head


def test_a_payer_without_a_wallet_is_told_so(counter: Counter) -> None:
    answer = counter.post("process_payment", payment(counter.economy.given(0)), owner=uuid4())
    assert (answer.status_code, answer.json()["code"]) == (404, "wallet_unknown")


def test_money_does_not_move_without_an_idempotency_key(counter: Counter) -> None:
    payer, payee = counter.economy.given(1_000), counter.economy.given(0)
    headers = counter.headers(payer)
    del headers["Idempotency-Key"]
    answer = counter.client.post("/v1/tokenomics/process_payment", json=payment(payee), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_required")
    assert counter.economy.wallet(payer).available == 1_000


def test_the_same_key_pays_once_and_gets_the_first_answer(counter: Counter) -> None:
    payer, payee = counter.economy.given(1_000), counter.economy.given(0)
    answers = [counter.post("process_payment", payment(payee), owner=payer, key="once").json() for _ in range(3)]
    assert answers == answers[:1] * 3
    assert counter.economy.wallet(payee).available == 400


def test_the_same_key_with_another_body_is_refused_and_nothing_is_recorded(counter: Counter) -> None:
    payer, payee = counter.economy.given(1_000), counter.economy.given(0)
    counter.post("process_payment", payment(payee), owner=payer, key="once")
    head = counter.economy.log.head()
    answer = counter.post("process_payment", payment(payee, "401"), owner=payer, key="once")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert counter.economy.log.head() == head


def test_nobody_pays_without_a_proof_of_who_they_are(counter: Counter) -> None:
    answer = counter.client.post("/v1/tokenomics/process_payment", json=payment(uuid4()))
    assert (answer.status_code, answer.json()["code"]) == (401, "credentials_missing")


def test_a_hold_is_made_captured_and_gone(counter: Counter) -> None:
    payer, payee, hold_id = counter.economy.given(1_000), counter.economy.given(0), str(uuid4())
    expires_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    hold = {"hold_id": hold_id, "grains": "700", "expires_at": expires_at, "purpose": "a_job"}
    told = counter.post("hold_funds", {**hold, "purpose": "for Ann's lessons"}, owner=payer)
    assert (told.status_code, told.json()["code"]) == (422, "request_invalid")
    assert counter.post("hold_funds", hold, owner=payer).json()["id"] == hold_id
    held = counter.post("verify_payment_capability", {"grains": "500"}, owner=payer).json()
    assert held == {
        "capable": False, "grains": "500", "fee_grains": "0", "available_grains": "300", "held_grains": "700",
        "shortfall_grains": "200",
    }  # fmt: skip
    capture = {"hold_id": hold_id, "to_owner_id": str(payee), "grains": "500", "kind": "service_payment"}
    assert counter.post("capture_hold", capture, owner=payer).json()["fee_grains"] == "10"
    again = counter.post("capture_hold", capture, owner=payer)
    assert (again.status_code, again.json()["code"]) == (409, "hold_already_ended")
    unknown = counter.post("void_hold", {"hold_id": str(uuid4())}, owner=payer)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "hold_unknown")
    assert counter.economy.wallet(payee).available == 490


def test_a_hold_in_the_past_or_beyond_the_balance_is_refused(counter: Counter) -> None:
    payer = counter.economy.given(1_000)
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for grains, expires_at, code in (
        ("700", past, "hold_expired"),
        ("1001", later, "insufficient_funds"),
        ("700", "2026-01-01T00:00:00", "request_invalid"),
    ):
        hold = {"hold_id": str(uuid4()), "grains": grains, "expires_at": expires_at, "purpose": "a_job"}
        answer = counter.post("hold_funds", hold, owner=payer)
        assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert counter.economy.wallet(payer).held == 0


def test_a_member_sees_and_touches_no_wallet_but_its_own(counter: Counter) -> None:
    mine, theirs = counter.economy.given(10), counter.economy.given(20)
    wallets = counter.ask("{ wallets(first: 10) { edges { node { ownerId } } totalCount } }", owner=mine)
    assert wallets["data"]["wallets"] == {"edges": [{"node": {"ownerId": str(mine)}}], "totalCount": 1}
    other = counter.ask("query($o: UUID!) { wallet(ownerId: $o) { postedGrains } }", owner=mine, o=str(theirs))
    assert other["data"]["wallet"] is None
    listed = counter.ask(
        "query($a: UUID) { transfers(first: 5, account: $a) { edges { node { kind } } } }",
        owner=mine,
        a=str(wallet_id_of(theirs)),
    )
    assert "somebody else" in listed["errors"][0]["message"]
    assert counter.post("open_wallet", {"owner_id": str(theirs)}, owner=mine).status_code == 403
    assert counter.post("distribute_rewards", {}, owner=mine).status_code == 403


def test_transfers_are_listed_from_the_newest_back_and_a_batch_shows_a_member_only_its_own_leg(
    counter: Counter,
) -> None:
    mine, theirs = counter.economy.given(10), counter.economy.given(20)
    claims = [counter.economy.accrue(owner_id=owner) for owner in (mine, theirs)]
    counter.economy.distribute(claims)
    counter.post("process_payment", payment(theirs, "3", memo="thanks"), owner=mine)
    query = """{ transfers(first: 2) { edges { node {
        kind memo { subject text erased } movedGrains legs { account grains } } } } }"""
    newest, batch = [edge["node"] for edge in counter.ask(query, owner=mine)["data"]["transfers"]["edges"]]
    assert (newest["kind"], newest["movedGrains"]) == ("payment", "3")
    assert newest["memo"] == {"subject": str(mine), "text": "thanks", "erased": False}
    assert batch["memo"] is None
    assert sorted(leg["grains"] for leg in newest["legs"]) == ["-3", "3"]
    assert batch["kind"] == "reward"
    assert [leg["account"] for leg in batch["legs"]] == [str(wallet_id_of(mine))]
    assert len(counter.ask(query)["data"]["transfers"]["edges"][1]["node"]["legs"]) == 3


def test_an_operator_posts_what_is_pending_and_the_reads_follow(counter: Counter) -> None:
    claims = [counter.economy.accrue() for _ in range(3)]
    counter.economy.projector.run_once()
    answer = counter.post("distribute_rewards", {}).json()
    assert (answer["posted"], answer["grains"], answer["left"]) == (3, "4500000000", [])
    query = """{
        rewardClaims(first: 10, state: "posted") { totalCount edges { node { claimId grains transferId verifiedMs } } }
        devicePayouts(first: 10) { edges { node { claims paidGrains pendingGrains } } }
        epochs(first: 10) { edges { node { number budgetGrains reservedGrains state } } }
        supply { issuedGrains totalGrains driftGrains conserved }
    }"""
    data = counter.ask(query)["data"]
    assert {edge["node"]["claimId"] for edge in data["rewardClaims"]["edges"]} == {str(claim) for claim in claims}
    assert {edge["node"]["transferId"] for edge in data["rewardClaims"]["edges"]} == {answer["id"]}
    assert [edge["node"] for edge in data["devicePayouts"]["edges"]] == [
        {"claims": 1, "paidGrains": "1500000000", "pendingGrains": "0"}
    ] * 3
    (epoch,) = [edge["node"] for edge in data["epochs"]["edges"]]
    assert (epoch["reservedGrains"], epoch["state"]) == ("4500000000", "open")
    assert data["supply"] == {
        "issuedGrains": "100000000000000000", "totalGrains": "100000000000000000", "driftGrains": "0",
        "conserved": True,
    }  # fmt: skip


def test_a_payout_is_explained_to_its_owner_so_that_it_can_be_reckoned_again(counter: Counter) -> None:
    mine, theirs = counter.economy.given(10), counter.economy.given(20)
    for _ in range(2):
        counter.economy.accrue(owner_id=mine, verified_ms=1_000_001, quality_bp=7_777)
    counter.economy.accrue(owner_id=theirs, verified_ms=1_000_001, quality_bp=7_777)
    query = """{ rewardClaims(first: 10) { edges { node {
        explain verifiedMs ruleVersion grains carry rateGrainsPerHour } } } }"""
    nodes = [edge["node"] for edge in counter.ask(query, owner=mine)["data"]["rewardClaims"]["edges"]]
    claims = [node for node in nodes if node["verifiedMs"] == 1_000_001]
    assert len(claims) == 2, "nobody else's"
    for claim in claims:
        numbers = [int(number) for number in re.findall(r"\d+", claim["explain"].removeprefix(claim["ruleVersion"]))]
        ms, rate, quality, multiplier, carry, divisor, grains = numbers
        assert (ms, quality, str(rate), str(carry)) == (1_000_001, 7_777, claim["rateGrainsPerHour"], claim["carry"])
        assert (ms * rate * quality * multiplier + carry) // divisor == grains == int(claim["grains"])
    assert {claim["carry"] == "0" for claim in claims} == {True, False}, "the second takes up what the first left"


def test_an_epoch_of_the_past_or_far_future_or_beyond_the_supply_is_refused(counter: Counter) -> None:
    running = int(datetime.now(UTC).timestamp()) // 86_400
    for number, budget, code in (
        (running - 1, "5", "epoch_over"),
        (running + 10_000, "5", "epoch_too_far"),
        (running + 1, str(MAX_GRAINS), "budget_invalid"),
    ):
        answer = counter.post("open_epoch", {"number": number, "budget": budget})
        assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert counter.post("open_epoch", {"number": running + 1, "budget": "5"}).status_code == 200
    again = counter.post("open_epoch", {"number": running + 1, "budget": "6"})
    assert (again.status_code, again.json()["code"]) == (409, "already_exists")


def test_what_an_hour_of_training_earns_can_be_asked(counter: Counter) -> None:
    work = {"activity_type": "fl_participation", "verified_ms": 3_600_000}
    assert counter.post("calculate_rewards", work).json() == {"grains": "1500000000", "multiplier_bp": 15_000}
    assert counter.post("calculate_rewards", {**work, "activity_type": "mining"}).status_code == 422
    assert counter.post("calculate_rewards", {**work, "verified_ms": -1}).status_code == 422
