"""What went between owners is read as a fold of all transfers tells it, directly and through every third owner."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import permutations
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.tokenomics.accounts import wallet_id_of
from infrastructure.database import Database
from projections.tokenomics.flows import FlowIndex
from tests.economy import Economy
from tests.flows import flow_rows, flows_through


class Street:
    """Some owners with tokens who pay each other."""

    def __init__(self, economy: Economy) -> None:
        self.economy, self.index = economy, FlowIndex(economy.database)
        self.owners = [economy.given(10_000_000) for _ in range(5)]
        self.wallets = [wallet_id_of(owner) for owner in self.owners]

    def pay(self, payer: int, payee: int, grains: int, way: str) -> None:
        """By itself with or without a fee, from a hold, or as a process of the village does for a contract."""
        one, other = self.owners[payer], self.owners[payee]
        if way in ("payment", "service_payment"):
            self.economy.pay(one, other, grains, kind=way)
            return
        hold_id, until = uuid4(), self.economy.now + timedelta(hours=1)
        with self.economy.acting():
            self.economy.service.hold_funds(owner_id=one, hold_id=hold_id, grains=grains, expires_at=until)
        with self.economy.acting(causation_id=uuid4() if way == "contract" else None):
            self.economy.service.capture_hold(
                owner_id=one, hold_id=hold_id, to_owner_id=other, grains=grains, kind="service_payment"
            )

    def hops(self, most: int) -> list[tuple[int, int]]:
        self.economy.projector.run_once()
        return self.index.between(self.wallets[0], self.wallets[1], most).hops


@pytest.fixture
def street(database_url: str, database: Database) -> Iterator[Street]:
    economy = Economy(database_url, database)
    yield Street(economy)
    economy.projector.close()
    economy.close()


ways = st.sampled_from(["payment", "service_payment", "capture", "contract"])
payments = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 1_000), ways)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(payments.filter(lambda one: one[0] != one[1]), max_size=15))
def test_the_index_answers_what_all_transfers_tell(street: Street, paid: list[tuple[int, int, int, str]]) -> None:
    for payment in paid:
        street.pay(*payment)
    street.economy.projector.run_once()
    facts = street.economy.facts()
    rows = flow_rows(facts)
    for one, other in permutations(street.wallets, 2):
        found = street.index.between(one, other)
        gave, got, hops = flows_through(rows, one, other)
        assert (found.gave, found.got, sorted(found.hops)) == (gave, got, sorted(hops))
        assert found.position == facts[-1].position


def test_what_an_owner_pays_by_itself_is_told_from_what_the_village_pays_for_a_contract(street: Street) -> None:
    for grains, way in enumerate(["payment", "service_payment", "capture", "contract"], 1):
        street.pay(0, 1, 10**grains, way)
    street.economy.projector.run_once()
    row = flow_rows(street.economy.facts())[street.wallets[0], street.wallets[1]]
    assert (row.gave_grains, row.paid_grains, row.got_grains, row.earned_grains) == (1_110, 10_000, 0, 0)
    assert (row.net_grains, row.moved_grains) == (11_110, 11_110)


def test_tokens_are_followed_through_those_with_whom_most_was_moved(street: Street) -> None:
    for third, grains in ((2, 10), (3, 30), (4, 20)):
        street.pay(0, third, grains, "payment")
        street.pay(third, 1, 100 - grains, "payment")
    assert sorted(street.hops(most=3)) == [(10, 90), (20, 80), (30, 70)]
    assert sorted(street.hops(most=1)) == [(10, 90), (30, 70)]  # the largest of either side


def test_rewards_are_no_payments_between_owners(street: Street) -> None:
    assert flow_rows(street.economy.facts()) == {}
    assert street.index.between(UUID(int=1), UUID(int=2)).hops == []
