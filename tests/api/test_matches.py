"""Receipts of matches as customers and operators read and check them, and the dealings that they lead to."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from cli import market
from domain.harvest.policy import HarvestPolicy
from domain.kernel import new_scope, within
from domain.marketplace.matching import RULESET, ruleset_hash
from domain.marketplace.request import ServiceRequest
from projections.matching import MatchUnknown, MatchVerdict, verify_match
from tests.api.stall import Stall, later, stall
from tests.trading import HOUR, PRICE

__all__ = ["stall"]


def wish(**changes: Any) -> dict[str, Any]:
    """A body that looks for a minute of one unit."""
    asked: dict[str, Any] = {
        "request_id": str(uuid4()), "service_type": "compute_burst", "units": 1, "duration_ms": 60_000,
        "deadline_at": later(HOUR), "max_price_grains": "2000000", "region": "eu-west", "min_cpu_cores": 2,
    }  # fmt: skip
    return asked | changes


def matched(stall: Stall, **changes: Any) -> dict[str, Any]:
    stall.office.settle()
    answer = stall.office.post("marketplace/match_service_request", wish(**changes), stall.customer)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


MATCHES = """query($offering: UUID) { matches(first: 10, offeringId: $offering) { edges { node {
    requestId winner explain rejected { reason count explain } candidates { rank offeringId explain }
} } } }"""
MATCH = "query($id: UUID!, $at: AsOf) { match(requestId: $id, asOf: $at) { winner } }"


def test_a_customer_reads_why_an_offering_won_and_why_the_others_did_not(stall: Stall) -> None:
    dear, cheap = stall.offered(), stall.offer(price_grains_per_hour=str(PRICE // 2)).json()["id"]
    stall.offer(region="us-east")
    receipt = matched(stall)
    stall.office.settle()
    (edge,) = stall.office.ask(MATCHES, stall.customer, offering=dear)["matches"]["edges"]
    seen = edge["node"]
    assert (seen["requestId"], seen["winner"]) == (receipt["id"], cheap)
    assert seen["rejected"] == [{"reason": "region", "count": 1, "explain": "1 is in another region"}]
    first, second = seen["candidates"]
    assert ((first["rank"], first["offeringId"]), (second["rank"], second["offeringId"])) == ((1, cheap), (2, dear))
    assert "below the winner's" in second["explain"]
    assert seen["explain"].startswith(
        "offerings that meet every constraint: 2, that do not: 1; the winner has the highest score"
    )
    assert stall.office.ask(MATCHES, stall.customer, offering=str(uuid4()))["matches"]["edges"] == []
    assert stall.office.ask(MATCHES, stall.provider)["matches"]["edges"] == []
    assert stall.office.ask(MATCH, stall.provider, id=receipt["id"])["match"] is None
    now, before = {"position": stall.office.log.head()}, {"position": receipt["position"] - 1}
    for at, winner in ((None, {"winner": cheap}), (now, {"winner": cheap}), (before, None)):
        assert stall.office.ask(MATCH, id=receipt["id"], at=at)["match"] == winner
    assert stall.office.ask(MATCH, stall.provider, id=receipt["id"], at=now)["match"] is None


DEALINGS = """query { dealings(first: 10) { edges { node {
    trades flagged rule lowGrains highGrains lowGave highGave explain
} } } }"""


def test_dealings_are_for_operators_and_say_why_they_are_flagged(stall: Stall) -> None:
    stall.report(stall.bought(stall.offered()), 1)
    assert stall.office.code(DEALINGS, stall.customer) == "forbidden"
    (edge,) = stall.office.ask(DEALINGS)["dealings"]["edges"]
    seen = edge["node"]
    assert sorted((seen["lowGrains"], seen["highGrains"])) == ["0", "10"]
    assert (seen["trades"], seen["flagged"], seen["rule"], seen["explain"]) == (1, False, "", "not flagged; trades: 1")


def test_tokens_that_a_provider_gives_back_flag_the_dealing(stall: Stall) -> None:
    offering_id = stall.offered()
    for _ in range(4):
        stall.report(stall.bought(offering_id), 1)
        refund = {"to_owner_id": str(stall.customer), "grains": "9"}
        assert stall.office.post("tokenomics/process_payment", refund, stall.provider).status_code == 200
    stall.report(stall.bought(offering_id), 1)
    stall.office.settle()
    (edge,) = stall.office.ask(DEALINGS)["dealings"]["edges"]
    seen = edge["node"]
    assert (seen["trades"], seen["flagged"], seen["rule"]) == (5, True, "wash-2")
    assert sorted((seen["lowGave"], seen["highGave"])) == ["0", "36"]
    assert "36 given" in seen["explain"]


def verdict(stall: Stall, request_id: str) -> MatchVerdict:
    with stall.office.database.reader.connection() as connection:
        return verify_match(connection, UUID(request_id))


def test_a_request_is_matched_by_a_receipt_that_can_be_decided_again_whatever_happens_since(stall: Stall) -> None:
    dear, cheap = stall.offered(), stall.offer(price_grains_per_hour=str(PRICE // 2)).json()["id"]
    stall.offer(region="us-east")
    first = matched(stall)
    assert (first["winner"], first["rejected"]) == (cheap, {"region": 1})
    assert [one["offering_id"] for one in first["candidates"]] == [cheap, dear]
    stall.bought(cheap, units=2)
    second = matched(stall)
    assert (second["winner"], second["rejected"]) == (dear, {"region": 1, "units": 1})
    stall.office.post("marketplace/withdraw_offering", {"offering_id": dear}, stall.provider)
    assert matched(stall)["winner"] is None
    for receipt in (first, second):
        decided = verdict(stall, receipt["id"])
        assert decided.honest
        assert str(decided.decided_again.winner) == receipt["winner"]


MEASURED = """query($id: UUID!) { match(requestId: $id) {
    winner rules devicesPosition sessionsPosition
    candidates { matrixMflops memoryMbS diskMbS } rejected { reason explain }
} }"""

KNOWN = {"devices": "devices", "sessions": "harvest_sessions"}


def test_what_a_device_has_measured_can_be_asked_for_and_each_receipt_keeps_to_what_was_known_then(
    stall: Stall,
) -> None:
    offered, asked = stall.offered(), {"min_matrix_mflops": 20_000, "min_memory_mb_s": 4_000}
    unknown = matched(stall, **asked)
    stall.measures(("matmul-f32", 1, 25_000), ("memory-copy", 1, 5_000))
    served = matched(stall, **asked)
    stall.measures(("matmul-f32", 1, 12_000), ("memory-copy", 1, 5_000))
    refuted = matched(stall, **asked)
    assert [one["winner"] for one in (unknown, served, refuted)] == [None, offered, None]
    stall.office.settle()
    seen = stall.office.ask(MEASURED, id=served["id"])["match"]
    assert seen.pop("candidates") == [{"matrixMflops": 25_000, "memoryMbS": 5_000, "diskMbS": None}]
    known = {f"{name}Position": served["known_at"][model] for name, model in KNOWN.items()}
    assert seen == {"winner": offered, "rules": RULESET, "rejected": [], **known}
    (why,) = stall.office.ask(MEASURED, id=refuted["id"])["match"]["rejected"]
    assert why["explain"] == "1 has measured too few products of matrices, or none"
    for receipt in (unknown, served, refuted):
        assert verdict(stall, receipt["id"]).honest


def test_a_device_that_is_not_there_is_not_matched_and_the_receipt_keeps_what_was_known_of_it(stall: Stall) -> None:
    offered, receipts = stall.offered(), [matched(stall)]
    for presence, since in (("degraded", "seen_at"), ("offline", "last_seen_at"), ("online", "seen_at")):
        stall.goes(presence, **{since: datetime.now(UTC)})
        receipts.append(matched(stall))
    assert [one["winner"] for one in receipts] == [offered, None, None, offered]
    assert [one["rejected"] for one in receipts] == [{}, *[{"device_offline": 1}] * 2, {}]
    assert all(verdict(stall, one["id"]).honest for one in receipts)


def test_a_device_that_rests_by_its_harvest_policy_is_not_matched(stall: Stall) -> None:
    offered, lending = stall.offered(), stall.office.village.harvest
    with within(new_scope("test")):
        opened = lending.start_harvest_session(
            device_id=stall.device_id,
            policy=HarvestPolicy(),
            sensors=["temperature", "cpu", "battery", "power", "network"],
        )
    assert opened.id is not None
    resting = matched(stall)
    with within(new_scope("test")):
        lending.close_session(session_id=opened.id)
    receipts = [resting, matched(stall)]
    assert [(one["winner"], one["rejected"]) for one in receipts] == [(None, {"device_rests": 1}), (offered, {})]
    assert all(verdict(stall, one["id"]).honest for one in receipts)


def test_a_receipt_that_was_decided_before_devices_were_looked_at_still_holds(stall: Stall) -> None:
    stall.offered()
    stall.office.settle()
    new = stall.office.log.load(ServiceRequest, UUID(matched(stall)["id"]))
    unseen = [replace(one, measured={}) for one in new.decision.candidates]
    with within(new_scope("test")):
        old = ServiceRequest(
            request_id=uuid4(), customer_id=new.customer_id, wish=new.wish, asked_at=new.asked_at,
            snapshot_position=new.snapshot_position, ruleset_hash=ruleset_hash(new.wish, rules=1),
            candidates=unseen, rejected=new.decision.rejected, winner=new.decision.winner, rules=1, known_at={},
        )  # fmt: skip
        stall.office.log.record(old)
    stall.measures(("matmul-f32", 1, 25_000))
    assert verdict(stall, str(old.id)).honest


def test_a_receipt_that_does_not_follow_from_the_log_is_found_out(stall: Stall, database_url: str) -> None:
    stall.offered()
    honest = stall.office.log.load(ServiceRequest, UUID(matched(stall)["id"]))
    forged = replace(honest.decision, winner=uuid4())
    with within(new_scope("test")):
        lie = ServiceRequest(
            request_id=uuid4(), customer_id=honest.customer_id, wish=honest.wish, asked_at=honest.asked_at,
            snapshot_position=honest.snapshot_position, ruleset_hash=honest.ruleset_hash,
            candidates=forged.candidates, rejected=forged.rejected, winner=forged.winner,
            rules=honest.rules, known_at=honest.known_at,
        )  # fmt: skip
        stall.office.log.record(lie)
    assert not verdict(stall, str(lie.id)).same_decision
    env = {"VILLAGE_DATABASE_URL": database_url}
    for request_id, code, told in ((honest.id, 0, "give this match"), (lie.id, 1, "do not give this match")):
        typed = CliRunner().invoke(market.app, ["verify-match", str(request_id)], env=env)
        assert (typed.exit_code, told in typed.stdout) == (code, True), typed.output
    with pytest.raises(MatchUnknown):
        verdict(stall, str(uuid4()))


def test_a_request_that_cannot_be_is_refused_by_name(stall: Stall) -> None:
    refused = stall.office.refused
    assert refused("marketplace/match_service_request", wish(units=0), stall.customer) == (422, "wish_invalid")
    mining = wish(service_type="mining")
    assert refused("marketplace/match_service_request", mining, stall.customer) == (422, "wish_invalid")
    body = wish()
    assert stall.office.post("marketplace/match_service_request", body, stall.customer).status_code == 200
    assert refused("marketplace/match_service_request", body, stall.customer) == (409, "already_exists")
