"""Read models of the marketplace: equal to the aggregates, and the same after a rebuild."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.marketplace.contract import Contract
from domain.marketplace.settlement import due_of
from infrastructure.database import Database
from projections.marketplace import READ_MODELS, Contracts, Offerings
from projections.replay import compare
from projections.rows import ReadModel
from tests.domain.sagas.paying import StoredMarket
from tests.trading import HOUR_MS
from workers.projector import Projector


@pytest.fixture
def market(database_url: str, database: Database) -> Iterator[StoredMarket]:
    market = StoredMarket(database_url, database)
    market.projector = Projector(database, list(READ_MODELS))
    yield market
    market.projector.close()
    market.close()


def rows(market: StoredMarket, model: ReadModel[Any]) -> dict[Any, Any]:
    """The live rows by key, once the projector has caught up."""
    market.projector.run_once()
    with market.database.reader.connection() as connection:
        found = [model.read(record) for record in connection.execute(model.select())]
    return {model.key_of(row): row for row in found}


def test_an_offering_and_a_contract_are_read_as_they_stand(market: StoredMarket) -> None:
    contract_id = market.running(units=2)
    market.work(contract_id, 600_000)
    market.judge(contract_id, ok_ms=300_000, degraded_ms=300_000)
    offering, contract = rows(market, Offerings())[market.offering_id], rows(market, Contracts())[contract_id]
    assert (offering.capacity, offering.reserved, offering.state, offering.ram_mb) == (4, 2, "open", 4_096)
    assert (contract.state, contract.used_ms, contract.windows) == ("active", 600_000, 1)
    assert contract.credit_grains == due_of(market.contract(contract_id)).credit_grains > 0
    market.ask(market.market.withdraw_offering, offering_id=market.offering_id, provider_id=None)
    assert rows(market, Offerings())[market.offering_id].state == "withdrawn"


ends = st.sampled_from(["complete", "cancel", "breach", "expire"])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ends, st.integers(1, HOUR_MS // 2), st.booleans())
def test_a_settled_contract_is_read_as_its_facts_say(market: StoredMarket, end: str, ms: int, disputed: bool) -> None:
    contract_id = market.running()
    market.work(contract_id, ms)
    named, service = {"contract_id": contract_id}, market.market
    if disputed:
        market.ask(service.dispute_contract, **named, customer_id=None, reason="no")
    if end == "complete":
        market.ask(service.complete_contract, **named, customer_id=None)
    elif end == "cancel":
        market.ask(service.cancel_contract, **named, customer_id=None, reason="enough")
    elif end == "breach":
        market.ask(service.breach_contract, **named, provider_id=None, reason="gone")
    market.stage.until_quiet()
    row, contract, settled = (
        rows(market, Contracts())[contract_id],
        market.contract(contract_id),
        market.settled(contract_id),
    )
    assert (
        row.outcome == {"complete": "completed", "cancel": "cancelled", "breach": "breached", "expire": "expired"}[end]
    )
    assert (row.state, row.used_ms, row.ended_at) == (contract.status, contract.used_ms, contract.ended_at)
    for name in ("credit", "charged", "fee", "penalty", "provider", "released"):
        assert getattr(row, f"{name}_grains") == getattr(settled, f"{name}_grains")
    with market.database.reader.connection() as connection:
        assert compare(connection, READ_MODELS).differences == []
    market.given(2 * contract.terms.agreed_price, market.customer_id)


def test_the_hold_of_a_contract_is_known_to_its_row(market: StoredMarket) -> None:
    contract_id = market.running()
    assert rows(market, Contracts())[contract_id].hold_id == market.log.load(Contract, contract_id).hold_id
