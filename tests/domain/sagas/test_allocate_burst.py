"""A burst begins on all its devices in one instant or on none, whatever crashes, is late, or is missing."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Refusal
from domain.marketplace.burst import (
    ALLOCATED,
    REFUSED,
    Burst,
    BurstInvalid,
    BurstRequest,
    BurstUnavailable,
)
from domain.marketplace.matching import Wish
from domain.marketplace.offering import Offering
from domain.sagas.allocate_burst import AllocateBurst, burst_process_id_of
from domain.sagas.operations import SagaOperations
from domain.sagas.process import COMPENSATED, ENDED, Process
from infrastructure.database import Database
from tests.devices import enrol
from tests.economy import Economy, MemoryEconomy
from tests.sagas import DEATHS, Faults, Oracle, deliveries, faults, stormy
from tests.trading import HOUR, HOUR_MS, PRICE

from .paying import FUNDS, Market


class Bursting(Market):
    """Three devices, each with an offering of one unit, and both sagas on the stage."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self.burst_plan = AllocateBurst(self.village.deadlines)
        plans = [self.plan, self.burst_plan]
        self.operations = SagaOperations(self.log, plans)
        self.village = replace(self.village, sagas=self.operations)
        self.stage = self.staged(plans, self.village)
        self.ask(self.market.withdraw_offering, offering_id=self.offering_id, provider_id=None)
        self.devices = [enrol(self.registry, owner_id=self.provider_id, now=self.now) for _ in range(3)]
        self.offerings.clear()
        for device_id in self.devices:
            self.offer(capacity=1, device_id=device_id)

    def burst(self, nodes: int = 3, price: int = 2 * PRICE, customer_id: UUID | None = None) -> UUID:
        """Ask for half an hour on so many devices."""
        wish = Wish("compute_burst", 1, HOUR_MS // 2, self.now + 2 * HOUR, price)
        receipt = self.ask(
            self.market.allocate_compute_burst,
            burst_id=uuid4(),
            customer_id=customer_id or self.customer_id,
            burst_request=BurstRequest(nodes, wish),
        )
        assert receipt.id is not None
        return receipt.id

    def states(self, burst_id: UUID) -> set[str]:
        """The states of a burst's contracts; none where no contract was made."""
        nodes = self.log.load(Burst, burst_id).nodes
        return {self.contract(node.contract_id).status for node in nodes if self.names(node.contract_id)}

    def status(self, burst_id: UUID) -> str:
        return self.log.load(Burst, burst_id).status

    def burst_process(self, burst_id: UUID) -> Process:
        return self.log.load(Process, burst_process_id_of(burst_id))

    def free(self) -> list[int]:
        return [self.log.load(Offering, offering_id).free for offering_id in self.offerings]

    def all_or_nothing(self, burst_id: UUID) -> None:
        """What must hold of a burst whose process has ended."""
        assert self.burst_process(burst_id).status in ENDED
        made = [bool(self.names(node.contract_id)) for node in self.log.load(Burst, burst_id).nodes]
        assert all(made) if self.status(burst_id) == ALLOCATED else not any(made)
        self.assert_sound()


class MemoryBursting(Bursting, MemoryEconomy):
    """In memory."""


class StoredBursting(Bursting, Economy):
    """In a database."""


@pytest.fixture
def bursting() -> Iterator[Bursting]:
    bursting = MemoryBursting()
    yield bursting
    bursting.close()


@pytest.fixture
def stored_bursting(database_url: str, database: Database) -> Iterator[Bursting]:
    bursting = StoredBursting(database_url, database)
    yield bursting
    bursting.close()


def test_all_contracts_of_a_burst_begin_together_and_each_is_paid(bursting: Bursting) -> None:
    burst_id = bursting.burst()
    bursting.stage.run()
    assert (bursting.status(burst_id), bursting.states(burst_id)) == (ALLOCATED, {"active"})
    assert (bursting.free(), bursting.wallet(bursting.customer_id).held) == ([0, 0, 0], 3 * PRICE // 2)
    nodes = bursting.log.load(Burst, burst_id).nodes
    assert [node.offering_id for node in nodes] == sorted(bursting.offerings)
    for node in nodes:
        bursting.now += HOUR / 6
        bursting.ask(bursting.market.report_usage, contract_id=node.contract_id, provider_id=None, cumulative_ms=60_000)
        bursting.ask(bursting.market.complete_contract, contract_id=node.contract_id, customer_id=None)
    bursting.stage.until_quiet()
    assert bursting.states(burst_id) == {"settled"}
    assert bursting.balances()["customer"] == FUNDS - 3 * 600_000
    assert (bursting.free(), bursting.wallet(bursting.customer_id).held) == ([1, 1, 1], 0)
    bursting.all_or_nothing(burst_id)


def test_a_customer_without_funds_gets_no_device_at_all(bursting: Bursting) -> None:
    burst_id = bursting.burst(customer_id=bursting.given(PRICE))
    bursting.stage.until_quiet()
    assert (bursting.status(burst_id), bursting.burst_process(burst_id).status) == (REFUSED, COMPENSATED)
    assert bursting.burst_process(burst_id).reason == "insufficient_funds"
    assert bursting.free() == [1, 1, 1]
    bursting.all_or_nothing(burst_id)


@pytest.mark.parametrize("code", ["capacity_exhausted", "device_suspended"])
def test_one_device_that_cannot_serve_is_none(bursting: Bursting, code: str) -> None:
    burst_id = bursting.burst()
    if code == "device_suspended":
        bursting.ask(bursting.registry.suspend_device, device_id=bursting.devices[1], reason="audit_failed")
    else:
        rival = bursting.propose(offering_id=bursting.offerings[2], customer_id=bursting.given(PRICE))
        bursting.ask(bursting.market.reserve_capacity, contract_id=rival)
    bursting.stage.until_quiet()
    assert (bursting.status(burst_id), bursting.burst_process(burst_id).reason) == (REFUSED, code)
    bursting.all_or_nothing(burst_id)


def test_bursts_over_the_same_devices_never_share_one(bursting: Bursting) -> None:
    rivals = [bursting.burst(nodes=2, customer_id=bursting.given(2 * PRICE)) for _ in range(3)]
    bursting.stage.run()
    assert sorted(map(bursting.status, rivals)) == [ALLOCATED, REFUSED, REFUSED]
    for burst_id in rivals:
        bursting.all_or_nothing(burst_id)


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [({"nodes": 0}, BurstInvalid), ({"nodes": 21}, BurstInvalid), ({"nodes": 4, "price": 9 * PRICE}, BurstUnavailable),
     ({"price": PRICE}, BurstUnavailable)],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_at_once(
    bursting: Bursting, asked: dict[str, Any], refusal: type[Refusal]
) -> None:
    with pytest.raises(refusal):
        bursting.burst(**asked)


def test_nobody_buys_a_burst_of_itself(bursting: Bursting) -> None:
    with pytest.raises(BurstUnavailable):
        bursting.burst(customer_id=bursting.provider_id)


@pytest.mark.parametrize("funds", [PRICE, PRICE // 2])
def test_a_crash_at_any_write_leaves_all_or_nothing(bursting: Bursting, funds: int) -> None:
    def scenario() -> Oracle:
        burst_id = bursting.burst(nodes=2, customer_id=bursting.given(funds), price=2 * PRICE + 2)

        def holds() -> None:
            bursting.all_or_nothing(burst_id)
            assert bursting.status(burst_id) == (ALLOCATED if funds >= PRICE else REFUSED)
            assert bursting.free() == [1, 1, 1]

        return holds

    assert bursting.stage.crash_points(scenario, DEATHS) >= 5


def test_funds_that_come_while_a_burst_is_tried_again_are_in_time(bursting: Bursting) -> None:
    customer_id = bursting.given(PRICE)
    burst_id = bursting.burst(customer_id=customer_id)
    bursting.stage.run()
    assert bursting.burst_process(burst_id).attempt == 1
    bursting.given(PRICE, customer_id)
    bursting.stage.wait(seconds=8)
    assert (bursting.status(burst_id), bursting.states(burst_id)) == (ALLOCATED, {"active"})


def test_a_burst_that_is_not_begun_by_its_deadline_is_refused_and_reserves_nothing(bursting: Bursting) -> None:
    burst_id = bursting.burst(customer_id=bursting.given(PRICE))
    bursting.stage.run()  # the devices are reserved, the funds awaited
    assert bursting.free() == [0, 0, 0]
    bursting.now = bursting.burst_process(burst_id).due_at
    bursting.stage.run()
    process = bursting.burst_process(burst_id)
    assert (process.status, bursting.status(burst_id), bursting.free()) == (COMPENSATED, REFUSED, [1, 1, 1])
    assert process.reason in ("timed_out", "insufficient_funds")
    bursting.all_or_nothing(burst_id)


def asked(bursting: Bursting, funds: int) -> Oracle:
    """A burst over two devices that its customer can or cannot pay."""
    burst_id = bursting.burst(nodes=2, customer_id=bursting.given(funds), price=2 * PRICE + 2)

    def all_or_nothing() -> None:
        bursting.stage.settle_parked()
        bursting.all_or_nothing(burst_id)
        assert bursting.free() == [1, 1, 1]
        if funds < PRICE:
            assert bursting.status(burst_id) == REFUSED

    return all_or_nothing


rich_or_poor = st.sampled_from([PRICE, PRICE // 2])


@stormy
@given(order=deliveries, funds=rich_or_poor)
def test_facts_in_any_order_and_number_give_all_or_nothing(bursting: Bursting, order: list[int], funds: int) -> None:
    bursting.stage.storm(lambda: asked(bursting, funds), order)


@stormy
@given(broken=faults, funds=rich_or_poor)
def test_whatever_fails_a_burst_is_all_or_nothing(bursting: Bursting, broken: Faults, funds: int) -> None:
    bursting.stage.strike(lambda: asked(bursting, funds), broken)


@pytest.mark.parametrize("funds", [PRICE, PRICE // 2])
def test_on_a_real_log_too_a_burst_is_all_or_nothing_where_every_write_fails(
    stored_bursting: Bursting, funds: int
) -> None:
    stored_bursting.stage.stumble(lambda: asked(stored_bursting, funds))


def test_a_whole_history_of_bursts_delivered_again_records_nothing_new(bursting: Bursting) -> None:
    bursting.burst()
    bursting.burst(nodes=2, customer_id=bursting.given(PRICE // 2))
    bursting.stage.until_quiet()
    bursting.stage.adds_nothing()
