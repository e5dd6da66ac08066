"""Whatever comes between two steps of a suspension: what the device did ends once, or goes on once it is reinstated."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import UUID

import pytest

from domain.device_registry.device import Device
from domain.device_registry.status import ACTIVE
from domain.kernel import Refusal
from domain.marketplace.hand_off import heir_of
from domain.sagas.process import COMPLETED
from tests.trading import PRICE

from .paying import FUNDS, TEN_MINUTES
from .suspending import MemorySuspending, Suspending

MOST = 10
"""Batches of facts after which a suspension is over."""


@pytest.fixture
def village() -> Iterator[Suspending]:
    village = MemorySuspending()
    yield village
    village.close()


def reinstated(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    village.ask(village.registry.reinstate_device, device_id=village.device_id, reason="a mistake")


def suspended_again(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    reinstated(village, contract_id, session_id)
    village.suspend("no mistake")


def retired(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    village.ask(village.registry.retire_device, device_id=village.device_id, reason="lost")


def withdrawn(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    village.ask(village.market.withdraw_offering, offering_id=village.offering_id, provider_id=village.provider_id)


def accepted(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    village.ask(village.market.complete_contract, contract_id=contract_id, customer_id=village.customer_id)


def cancelled(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    named = {"contract_id": contract_id, "customer_id": village.customer_id}
    village.ask(village.market.cancel_contract, **named, reason="enough")


def disputed(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    named = {"contract_id": contract_id, "customer_id": village.customer_id}
    village.ask(village.market.dispute_contract, **named, reason="nothing came")


def given_up(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    village.ask(village.market.breach_contract, contract_id=contract_id, provider_id=village.provider_id, reason="gone")


def handed_off(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    village.ask(village.market.report_headroom, contract_id=contract_id, provider_id=None, headroom_ms=0)


def closed(village: Suspending, contract_id: UUID, session_id: UUID) -> None:
    village.ask(village.harvest.close_session, session_id=session_id)


Between = Callable[[Suspending, UUID, UUID], None]
ANYTHING: list[Between] = [
    reinstated, suspended_again, retired, withdrawn, accepted, cancelled, disputed, given_up, handed_off, closed,
]  # fmt: skip


@pytest.mark.parametrize("between", ANYTHING, ids=lambda one: one.__name__)
def test_a_suspension_ends_everything_once_whatever_comes_between_two_of_its_steps(
    village: Suspending, between: Between
) -> None:
    village.rival(capacity=100)
    for batches in range(MOST):
        village.device_id = village.enrolled()
        village.owners[village.device_id] = village.provider_id
        village.offering_id = village.offer()
        village.customer_id = village.given(2 * FUNDS)
        session_id, claim_id = village.lend(), village.earned()
        contract_id = village.running(request_id=village.receipt(2 * PRICE), offering_id=village.offering_id)
        village.work(contract_id, TEN_MINUTES)
        before = village.wallet(village.customer_id).posted
        process_id = village.suspend()
        runner = village.stage.runner()
        for _ in range(batches):
            runner.step()
            village.stage.projector.run_once()
        with suppress(Refusal):
            between(village, contract_id, session_id)
        village.stage.until_quiet()
        assert village.suspension(process_id).status == COMPLETED
        parts = [contract_id, *filter(village.names, [heir_of(contract_id)])]
        assert [village.names(one).count("Settled") for one in parts] == [1] * len(parts)
        charged = sum(village.settled(one).charged_grains for one in parts)
        assert village.wallet(village.customer_id).posted == before - charged
        assert (village.wallet(village.customer_id).held, village.offering().free) == (0, 4)
        assert village.names(session_id).count("SessionClosed") <= 1
        if village.log.load(Device, village.device_id).status != ACTIVE:
            village.assert_idle()
            assert village.names(claim_id) == ["Accrued", "Voided"]
        else:
            assert village.names(claim_id)[:1] == ["Accrued"]
    village.assert_sound()
