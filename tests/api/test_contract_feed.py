"""The feed of a contract, as its parties and a stranger see it."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from tests.api.edge.socket_client import socket
from tests.api.stall import Stall, stall, url

__all__ = ["stall", "url"]

FEED = """subscription($c: UUID!, $p: Position) { contract(contractId: $c, after: $p) {
    position change contract { state usedMs }
} }"""


def fed(stall: Stall, url: str, contract_id: str, count: int, owner: UUID, after: int) -> list[dict[str, Any]]:
    """The first messages of the feed of a contract."""
    token = stall.office.tokens.issue(role="member", subject=str(owner), expires_in=timedelta(hours=1))
    with socket(url, {"token": token}) as client:
        client.subscribe(FEED, c=contract_id, p=after)
        return [client.receive()["payload"] for _ in range(count)]


def test_the_feed_of_a_contract_tells_its_parties_every_change_and_goes_on_where_it_was_cut_off(
    stall: Stall, url: str
) -> None:
    offering_id, start = stall.offered(), stall.office.log.head()
    contract_id = stall.bought(offering_id)
    stall.report(contract_id, 1)
    changes = [one["data"]["contract"] for one in fed(stall, url, contract_id, 6, stall.customer, start)]
    assert [(one["change"], one["contract"]["state"], one["contract"]["usedMs"]) for one in changes] == [
        ("ServiceContractCreated", "proposed", 0), ("Reserved", "reserved", 0), ("Activated", "active", 0),
        ("UsageReported", "active", 1), ("Completed", "completed", 1), ("Settled", "settled", 1),
    ]  # fmt: skip
    cut_off = int(changes[3]["position"])
    resumed = [one["data"]["contract"] for one in fed(stall, url, contract_id, 2, stall.provider, cut_off)]
    assert resumed == changes[4:]
    assert "contract_unknown" in str(fed(stall, url, contract_id, 1, uuid4(), start))
