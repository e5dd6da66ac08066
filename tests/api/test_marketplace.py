"""The marketplace as providers and customers see it: commands by REST, reads by GraphQL, closed to everybody else."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from domain.harvest.policy import SENSORS, HarvestPolicy
from domain.kernel import new_scope, within
from domain.kernel.tokens import MAX_GRAINS
from tests.api.stall import FUNDS, SLA, Stall, later, stall
from tests.api.test_audit import EXPLAIN, assert_included
from tests.devices import enrol
from tests.trading import EVIDENCE, HOUR, PRICE

__all__ = ["stall"]

CONTRACTS = """query($at: AsOf, $state: String) { contracts(first: 10, asOf: $at, state: $state) {
    totalCount edges { node { contractId state } }
} }"""
BURST = (
    "query($id: UUID!, $at: AsOf) { burst(burstId: $id, asOf: $at) { state reason nodes { contractId priceGrains } } }"
)
OFFERINGS = """query($region: String, $state: String) { offerings(first: 10, region: $region, state: $state) {
    edges { node { offeringId capacity reserved priceGrainsPerHour state } }
} }"""


def test_a_service_is_offered_bought_delivered_and_paid(stall: Stall) -> None:
    offering_id = stall.offered()
    contract_id = stall.bought(offering_id, units=2)
    offered = stall.office.ask(OFFERINGS, uuid4(), region="eu-west")["offerings"]["edges"][0]["node"]
    assert offered == {
        "offeringId": offering_id, "capacity": 2, "reserved": 2, "priceGrainsPerHour": str(PRICE), "state": "open",
    }  # fmt: skip
    before = stall.office.log.head()
    answer = stall.report(contract_id, 1)
    assert (answer.status_code, answer.json()["used_ms"]) == (200, 1)
    paid = stall.contract(contract_id, stall.provider)
    assert paid | {"transferId": None, "holdId": None} == {
        "state": "settled", "outcome": "completed", "agreedPrice": "20", "usedMs": 1, "chargedGrains": "20",
        "feeGrains": "0", "providerGrains": "20", "releasedGrains": "0", "transferId": None, "holdId": None,
        "sla": {"uptimeBp": 0, "windowMs": 600_000},
    }  # fmt: skip
    wallet = "query($o: UUID!) { wallet(ownerId: $o) { postedGrains heldGrains } }"
    assert stall.office.ask(wallet, stall.provider, o=str(stall.provider))["wallet"]["postedGrains"] == "20"
    assert stall.contract(contract_id, at={"position": before})["state"] == "active"
    assert stall.contract(contract_id, uuid4(), at={"position": before}) is None


def test_a_burst_is_allocated_and_seen_by_its_customer_only(stall: Stall) -> None:
    stall.offered()
    stall.office.settle()
    asked = {
        "burst_id": str(uuid4()), "nodes": 1, "service_type": "compute_burst", "units": 1, "duration_ms": 1_000,
        "deadline_at": later(HOUR), "max_price_grains": str(FUNDS),
    }  # fmt: skip
    refused = stall.office.refused("marketplace/allocate_compute_burst", asked | {"nodes": 2}, stall.customer)
    assert refused == (422, "burst_unavailable")
    answer = stall.office.post("marketplace/allocate_compute_burst", asked, stall.customer)
    assert answer.status_code == 200, answer.text
    (node,) = answer.json()["nodes"]
    assert (answer.json()["price_grains"], node["device_id"]) == ("10000", str(stall.device_id))
    stall.office.settle()
    seen = stall.office.ask(BURST, stall.customer, id=asked["burst_id"])["burst"]
    nodes = [{"contractId": node["contract_id"], "priceGrains": "10000"}]
    assert (seen["state"], seen["nodes"]) == ("allocated", nodes)
    assert stall.contract(node["contract_id"])["state"] == "active"
    assert stall.office.ask(BURST, stall.provider, id=asked["burst_id"])["burst"] is None
    now, before = {"position": stall.office.log.head()}, {"position": answer.json()["position"] - 1}
    assert stall.office.ask(BURST, stall.customer, id=asked["burst_id"], at=now)["burst"] == seen
    assert stall.office.ask(BURST, stall.provider, id=asked["burst_id"], at=now)["burst"] is None
    assert stall.office.ask(BURST, stall.customer, id=asked["burst_id"], at=before)["burst"] is None


def test_nobody_else_sees_or_touches_a_contract(stall: Stall) -> None:
    contract_id = stall.bought(stall.offered())
    stranger, named = uuid4(), {"contract_id": contract_id}
    assert stall.contract(contract_id, stranger) is None
    assert stall.office.ask(CONTRACTS, stranger)["contracts"] == {"totalCount": 0, "edges": []}
    head = stall.office.log.head()
    assert stall.office.ask(CONTRACTS, stranger, at={"position": head})["contracts"]["totalCount"] == 0
    refused = stall.office.refused
    for path in ("cancel_contract", "dispute_contract", "breach_contract"):
        assert refused(f"marketplace/{path}", named | {"reason": "so"}, stranger) == (404, "contract_unknown")
    assert refused("marketplace/complete_contract", named, stall.provider) == (403, "wrong_party")
    assert refused("marketplace/report_usage", named | {"cumulative_ms": 1}, stall.customer) == (403, "wrong_party")
    judged = {"window": 0, "ok_ms": 1, "degraded_ms": 0, "unknown_ms": 0, "excluded_ms": 0, "evidence_hash": EVIDENCE}
    assert refused("marketplace/evaluate_sla_window", named | judged, stall.provider)[0] == 403
    decided = {"payable_ms": 0, "reason": "so"}
    assert refused("marketplace/decide_dispute", named | decided, stall.customer)[0] == 403
    assert refused("marketplace/withdraw_offering", {"offering_id": str(uuid4())}, stranger)[0] == 404
    for member in (stall.provider, stall.customer):
        assert stall.office.ask(CONTRACTS, member, state="active")["contracts"]["totalCount"] == 1


def test_what_cannot_be_bought_is_refused_by_name_and_nothing_is_recorded(stall: Stall) -> None:
    offering_id = stall.offered()
    refusals: list[tuple[dict[str, Any], int, str]] = [
        ({"offering_id": str(uuid4())}, 404, "offering_unknown"),
        ({"units": 3}, 422, "units_invalid"),
        ({"units": 0}, 422, "units_invalid"),
        ({"duration_ms": 0}, 422, "term_invalid"),
        ({"deadline_at": later(-HOUR)}, 422, "term_invalid"),
        ({"max_price_grains": "9"}, 422, "price_beyond_limit"),
        ({"max_price_grains": "0"}, 422, "request_invalid"),
        ({"max_price_grains": "-5"}, 422, "amount_not_positive"),
        ({"max_price_grains": str(MAX_GRAINS + 1)}, 422, "amount_too_large"),
        ({"max_price_grains": 5}, 422, "request_invalid"),
        ({"units": -1}, 422, "request_invalid"),
        ({"duration_ms": 1.5}, 422, "request_invalid"),
        ({"tip": 1}, 422, "request_invalid"),
        ({"owner_id": str(uuid4())}, 403, "forbidden"),
    ]
    for change, status, code in refusals:
        body = stall.proposal(offering_id) | change
        assert stall.office.refused("marketplace/propose_contract", body, stall.customer) == (status, code), change
    own = stall.office.refused("marketplace/propose_contract", stall.proposal(offering_id), stall.provider)
    assert own == (403, "self_dealing")


def test_time_is_not_bought_of_a_device_that_is_away_or_rests_as_it_would_not_be_matched(stall: Stall) -> None:
    body, lending = stall.proposal(stall.offered()), stall.office.village.harvest

    def refused() -> tuple[int, str]:
        return stall.office.refused("marketplace/propose_contract", body, stall.customer)

    stall.goes("degraded", seen_at=datetime.now(UTC))
    assert refused() == (422, "device_offline")
    stall.goes("offline", last_seen_at=datetime.now(UTC))
    assert refused() == (422, "device_offline")
    stall.goes("online", seen_at=datetime.now(UTC))
    with within(new_scope("test")):
        opened = lending.start_harvest_session(device_id=stall.device_id, policy=HarvestPolicy(), sensors=SENSORS)
    assert refused() == (422, "device_rests")
    assert opened.id is not None
    with within(new_scope("test")):
        lending.close_session(session_id=opened.id)
    stall.bought(body["offering_id"])
    with within(new_scope("test")):
        stall.office.village.device_registry.suspend_device(device_id=stall.device_id, reason="a drill")
    assert refused() == (422, "device_offline")


def test_only_the_owner_of_a_device_offers_it_and_withdraws_the_offering(stall: Stall) -> None:
    assert stall.offer(stall.customer).json()["code"] == "device_not_of_provider"
    for name, most in (("ram_mb", 4_096), ("cpu_cores", 4), ("compute_score", 12_000)):
        beyond = {"ram_mb": 1, "cpu_cores": 1, "compute_score": 1} | {name: most + 1}
        assert stall.offer(resources=beyond).json()["code"] == "resources_beyond_device"
    assert stall.offer(price_grains_per_hour="0").json()["code"] == "request_invalid"
    assert stall.offer(sla=SLA | {"uptime_bp": 10_001}).json()["code"] == "sla_invalid"
    assert stall.offer(service_type="mining").json()["code"] == "offering_invalid"
    with within(new_scope("test")):
        registry = stall.office.village.device_registry
        idle = enrol(registry, owner_id=stall.provider, now=datetime.now(UTC))
        registry.suspend_device(device_id=idle, reason="a drill")
    assert stall.offer(device_id=str(idle)).json()["code"] == "device_not_of_provider"
    named = {"offering_id": stall.offered()}
    assert stall.office.refused("marketplace/withdraw_offering", named, stall.customer) == (404, "offering_unknown")
    assert stall.office.post("marketplace/withdraw_offering", named, stall.provider).status_code == 200
    stall.office.settle()
    assert stall.office.ask(OFFERINGS, state="open")["offerings"]["edges"] == []
    late = stall.office.refused("marketplace/propose_contract", stall.proposal(**named), stall.customer)
    assert late == (422, "offering_withdrawn")


def test_the_hold_of_a_contract_is_not_its_customer_s_to_end(stall: Stall) -> None:
    contract_id = stall.bought(stall.offered())
    hold: dict[str, Any] = {"hold_id": stall.contract(contract_id)["holdId"]}
    refused = stall.office.refused
    assert refused("tokenomics/void_hold", hold, stall.customer) == (403, "hold_of_contract")
    capture = hold | {"to_owner_id": str(stall.provider), "grains": "1"}
    assert refused("tokenomics/capture_hold", capture, stall.customer) == (403, "hold_of_contract")
    as_operator = hold | {"owner_id": str(stall.customer)}
    assert refused("tokenomics/void_hold", as_operator) == (403, "hold_of_contract")
    assert refused("tokenomics/expire_hold", hold, stall.customer) == (422, "hold_not_expired")
    posing = {"hold_id": str(uuid4()), "grains": "1", "expires_at": later(HOUR), "purpose": f"contract:{contract_id}"}
    assert refused("tokenomics/hold_funds", posing, stall.customer) == (422, "purpose_reserved")


def test_a_contract_is_proposed_once_whatever_is_sent_again(stall: Stall) -> None:
    body = stall.proposal(stall.offered())
    first, again = (
        stall.office.post("marketplace/propose_contract", body, stall.customer, key="once").json() for _ in range(2)
    )
    assert first == again
    twice = stall.office.post("marketplace/propose_contract", body, stall.customer)
    assert (twice.status_code, twice.json()["code"]) == (409, "already_exists")


def test_a_quarrel_is_decided_by_an_operator(stall: Stall) -> None:
    contract_id = stall.bought(stall.offered(), duration_ms=60_000)
    named = {"contract_id": contract_id}
    stall.report(contract_id, 1)
    telling = named | {"reason": "Nothing came, and I am Ada Byron"}
    assert stall.office.refused("marketplace/dispute_contract", telling, stall.customer) == (422, "request_invalid")
    for path, body in (
        ("dispute_contract", named | {"reason": "nothing_came"}),
        ("complete_contract", named),
    ):
        assert stall.office.post(f"marketplace/{path}", body, stall.customer).status_code == 200
    decided = stall.office.post("marketplace/decide_dispute", named | {"payable_ms": 0, "reason": "none came"})
    assert decided.status_code == 200
    stall.office.settle()
    settled = stall.contract(contract_id)
    assert (settled["chargedGrains"], settled["releasedGrains"]) == ("0", "600000")


def explained(stall: Stall, stream: str) -> list[dict[str, Any]]:
    """The chain of a stream, each link of it proved under a checkpoint that the village has signed."""
    stall.office.sealer.run_once()
    links = stall.office.ask(EXPLAIN, id=stream)["explain"]
    for link in links:
        assert_included(stall.office, link["proof"], link["position"])
    known = {link["eventId"] for link in links}
    assert {link["causationId"] for link in links} - {None} <= known
    return list(links)


def of(links: list[dict[str, Any]], topic: str) -> list[dict[str, Any]]:
    return [link["state"] for link in links if link["topic"] == topic]


def one(links: list[dict[str, Any]], topic: str) -> dict[str, Any]:
    (state,) = of(links, topic)
    return state


def test_a_contract_is_explained_to_the_last_grain_and_every_link_is_proved(stall: Stall) -> None:
    contract_id = stall.bought(stall.offered(), units=2, duration_ms=60_000)
    stall.report(contract_id, 1)
    stall.report(contract_id, 5)
    ended = {"contract_id": contract_id, "reason": "gone"}
    assert stall.office.post("marketplace/breach_contract", ended, stall.provider).status_code == 200
    decided = {"contract_id": contract_id, "payable_ms": 4, "reason": "four came"}
    stall.office.post("marketplace/dispute_contract", ended, stall.customer)
    stall.office.post("marketplace/decide_dispute", decided)
    stall.office.settle()
    links = explained(stall, contract_id)

    proposed = one(links, "marketplace.Contract.ServiceContractCreated")
    held = one(links, "tokenomics.Wallet.FundsHeld")
    assert proposed["agreed_price"] == held["grains"] == 2 * 10 * 60_000
    assert [usage["cumulative_ms"] for usage in of(links, "marketplace.Contract.UsageReported")] == [1, 5]
    captured, transfer = one(links, "tokenomics.Wallet.HoldCaptured"), one(links, "tokenomics.Transfer.Posted")
    settled = one(links, "marketplace.Contract.Settled")
    assert (captured["grains"], captured["released"]) == (80, held["grains"] - 80)
    amounts = {name: settled[f"{name}_grains"] for name in ("usage", "credit", "charged", "fee", "penalty", "provider")}
    assert amounts == {"usage": 80, "credit": 0, "charged": 80, "fee": 1, "penalty": 79, "provider": 0}
    assert sorted(leg["grains"] for leg in transfer["legs"]) == [-80, 1, 79]
    assert settled["transfer_id"] == transfer["transfer_id"]
    for topic in ("CapacityReserved", "CapacityReleased"):
        assert one(links, f"marketplace.Offering.{topic}")["units"] == 2
    assert one(links, "device_registry.Reputation.EvidenceRecorded")["good"] is False
    assert one(links, "sagas.Process.Completed") == {"plan": "pay_for_service"}


def test_the_transfer_that_pays_a_contract_is_explained_from_its_proposal_on(stall: Stall) -> None:
    contract_id = stall.bought(stall.offered())
    stall.report(contract_id, 1)
    links = explained(stall, stall.contract(contract_id)["transferId"])
    topics = [link["topic"] for link in links]
    assert topics[0] == "marketplace.Contract.ServiceContractCreated"
    assert topics[-1] == "tokenomics.Transfer.Posted"
    assert "marketplace.Contract.UsageReported" in topics
    assert "marketplace.Contract.Settled" not in topics
