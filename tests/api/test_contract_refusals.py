"""Contracts as who cheats or comes late meets them: refused by name, and nothing recorded."""

from typing import Any
from uuid import uuid4

from tests.api.stall import Stall, stall

__all__ = ["stall"]


def test_more_than_was_bought_is_not_reported_and_what_is_settled_stays_so(stall: Stall) -> None:
    named: dict[str, Any] = {"contract_id": stall.bought(stall.offered())}
    reason, refused = named | {"reason": "a_drill"}, stall.office.refused
    usage: dict[Any, str] = {2: "usage_beyond_contract", 10**10: "usage_beyond_contract"}
    usage |= {-1: "request_invalid", 0.5: "request_invalid", 10**20: "request_invalid"}
    for reported, code in usage.items():
        body = named | {"cumulative_ms": reported}
        assert refused("marketplace/report_usage", body, stall.provider) == (422, code), reported
    assert refused("marketplace/report_usage", named | {"cumulative_ms": 1}, stall.customer)[1] == "wrong_party"
    assert refused("marketplace/complete_contract", named, stall.provider)[1] == "wrong_party"
    assert refused("marketplace/report_usage", {"contract_id": str(uuid4()), "cumulative_ms": 1}, stall.provider) == (
        404, "contract_unknown",
    )  # fmt: skip
    assert stall.report(named["contract_id"], 1).status_code == 200
    paid = stall.contract(named["contract_id"])
    assert paid["state"] == "settled"
    late = {
        "dispute_contract": (reason, stall.customer, "already_settled"),
        "report_usage": (named | {"cumulative_ms": 1}, stall.provider, "already_settled"),
        "decide_dispute": (reason | {"payable_ms": 0}, None, "wrong_contract_state"),
        "complete_contract": (named, stall.customer, "wrong_contract_state"),
        "cancel_contract": (reason, stall.customer, "wrong_contract_state"),
        "breach_contract": (reason, stall.provider, "wrong_contract_state"),
    }
    for name, (body, who, code) in late.items():
        assert refused(f"marketplace/{name}", body, who)[1] == code, name
    stall.office.settle()
    assert stall.contract(named["contract_id"]) == paid
