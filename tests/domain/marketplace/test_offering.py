"""An offering: what is sold, and never more of it than there is."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from domain.kernel import new_scope, within
from domain.kernel.snapshot import restored, take
from domain.kernel.tokens import MAX_GRAINS, AmountNotPositive, AmountTooLarge
from domain.marketplace.offering import (
    CapacityExhausted,
    Offering,
    OfferingInvalid,
    OfferingWithdrawn,
    Resources,
    UnitsInvalid,
)
from tests.facts import assert_replays, names_of, refuses
from tests.trading import HOUR, NOW, some_offering


def test_an_offering_is_published_with_all_its_capacity_free() -> None:
    offering = some_offering()
    assert (offering.free, names_of(offering)) == (4, ["Published"])
    assert_replays(offering)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"service_type": "mining"}, OfferingInvalid),
        ({"capacity": 0}, OfferingInvalid),
        ({"capacity": 10_001}, OfferingInvalid),
        ({"region": ""}, OfferingInvalid),
        ({"region": "Ada's house"}, OfferingInvalid),
        ({"resources": Resources(1, 0, 1)}, OfferingInvalid),
        ({"resources": Resources(-1, 1, 1)}, OfferingInvalid),
        ({"valid_until": NOW}, OfferingInvalid),
        ({"valid_until": NOW + timedelta(days=367)}, OfferingInvalid),
        ({"price_grains_per_hour": 0}, AmountNotPositive),
        ({"price_grains_per_hour": -1}, AmountNotPositive),
        ({"price_grains_per_hour": MAX_GRAINS + 1}, AmountTooLarge),
    ],
)
def test_an_offering_out_of_bounds_is_refused(change: dict[str, Any], rule: Any) -> None:
    with refuses(rule):
        some_offering(**change)


def test_capacity_is_reserved_once_a_contract_and_released() -> None:
    offering, contract_id = some_offering(), uuid4()
    offering.reserve(contract_id, 3, NOW)
    offering.reserve(contract_id, 3, NOW)
    assert offering.free == 1
    with refuses(CapacityExhausted, offering):
        offering.reserve(uuid4(), 2, NOW)
    offering.release(contract_id)
    offering.release(contract_id)
    assert (offering.free, names_of(offering)[1:]) == (4, ["CapacityReserved", "CapacityReleased"])
    assert_replays(offering)


def test_what_is_withdrawn_or_over_is_not_sold_and_what_runs_goes_on() -> None:
    offering, running = some_offering(), uuid4()
    offering.reserve(running, 1, NOW)
    with refuses(OfferingWithdrawn, offering):
        offering.reserve(uuid4(), 1, NOW + 24 * HOUR)
    offering.withdraw()
    offering.withdraw()
    with refuses(OfferingWithdrawn, offering):
        offering.reserve(uuid4(), 1, NOW)
    assert (offering.free, names_of(offering).count("Withdrawn")) == (3, 1)
    for units in (0, -1, 5):
        with refuses(UnitsInvalid):
            some_offering().reserve(uuid4(), units, NOW)


def test_a_snapshot_of_an_offering_is_the_offering() -> None:
    offering = some_offering()
    offering.reserve(uuid4(), 2, NOW)
    assert restored(Offering, take(offering)) == offering


class Selling(RuleBasedStateMachine):
    """Contracts come and go as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = within(new_scope("test", now=NOW))
        self.scope.__enter__()
        self.offering = some_offering(capacity=7)
        self.kept: dict[UUID, int] = {}

    def teardown(self) -> None:
        assert_replays(self.offering)
        self.scope.__exit__(None, None, None)

    @rule(contract=st.integers(0, 5), units=st.integers(1, 7))
    def reserve(self, contract: int, units: int) -> None:
        contract_id = UUID(int=contract)
        if contract_id in self.kept or units <= 7 - sum(self.kept.values()):
            self.offering.reserve(contract_id, units, NOW)
            self.kept.setdefault(contract_id, units)
        else:
            with refuses(CapacityExhausted, self.offering):
                self.offering.reserve(contract_id, units, NOW)

    @rule(contract=st.integers(0, 5))
    def release(self, contract: int) -> None:
        self.offering.release(UUID(int=contract))
        self.kept.pop(UUID(int=contract), None)

    @invariant()
    def no_more_is_reserved_than_there_is(self) -> None:
        assert self.offering.reserved == self.kept
        assert sum(self.offering.reserved.values()) <= self.offering.capacity


TestSelling = Selling.TestCase
TestSelling.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
