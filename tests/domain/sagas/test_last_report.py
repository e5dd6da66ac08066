"""What a provider has delivered and not reported when its contract goes to another: bounded, paid, and bought once."""

from contextlib import suppress
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.marketplace.delivery import LAST_REPORT_MS
from domain.marketplace.hand_off import heir_of
from domain.marketplace.states import AlreadySettled, UsageBeyondContract
from tests.trading import HOUR_MS, PRICE

from .handing import MINUTE_MS, Handing, handing
from .paying import FUNDS
from .test_jobs import reported, submitted

__all__ = ["handing"]


def told(handing: Handing, contract_id: UUID, ms: int) -> None:
    """The outgoing provider reports what it has delivered in all."""
    handing.ask(handing.market.report_usage, contract_id=contract_id, provider_id=None, cumulative_ms=ms)


def test_the_last_report_of_who_hands_off_counts_until_settlement_and_is_not_bought_twice(handing: Handing) -> None:
    contract_id = handing.bought()
    handing.work(contract_id, MINUTE_MS)
    handing.stage.wait(seconds=4)
    handing.tell(contract_id, 0)
    heir, most = handing.contract(heir_of(contract_id)), MINUTE_MS + LAST_REPORT_MS
    assert heir.terms.duration_ms == HOUR_MS - most
    assert handing.wallet(handing.customer_id).held == PRICE
    with pytest.raises(UsageBeyondContract):
        told(handing, contract_id, most + 1)
    told(handing, contract_id, most)
    handing.work(heir.id, HOUR_MS - most)
    handing.stage.until_quiet()
    settled = handing.settled(contract_id)
    assert (settled.usage_ms, settled.released_grains) == (most, 0)
    assert handing.balances()["customer"] == FUNDS - PRICE
    with pytest.raises(AlreadySettled):
        told(handing, contract_id, most)
    handing.assert_sound()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(passed_ms=st.integers(1, HOUR_MS), share=st.fractions(0, 1), late_ms=st.integers(0, 5_000))
def test_both_providers_together_are_never_paid_more_than_was_bought(
    handing: Handing, passed_ms: int, share: Fraction, late_ms: int
) -> None:
    handing.customer_id = handing.given(PRICE)
    contract_id, used_ms = handing.bought(), int(passed_ms * share)
    handing.stage.wait(milliseconds=passed_ms)
    told(handing, contract_id, used_ms)
    handing.tell(contract_id, 0)
    with suppress(UsageBeyondContract):
        told(handing, contract_id, used_ms + late_ms)
    parts = [one for one in (contract_id, heir_of(contract_id)) if handing.names(one)]
    if len(parts) == 2:
        heir = handing.contract(parts[1])
        assert handing.contract(contract_id).used_ms + heir.terms.duration_ms <= HOUR_MS
        handing.work(heir.id, min(heir.terms.duration_ms, HOUR_MS - late_ms))
    handing.stage.until_quiet()
    charged = sum(handing.settled(one).charged_grains for one in parts)
    assert handing.balances()["customer"] == PRICE - charged >= 0
    handing.assert_sound()


def test_what_a_job_used_until_its_device_hears_of_the_hand_off_is_paid(handing: Handing) -> None:
    contract_id = handing.bought()
    handing.device_id = handing.contract(contract_id).terms.device_id
    job_id = submitted(handing, contract_id)
    handing.stage.wait(seconds=2)
    assert reported(handing, job_id, 2_000)
    handing.stage.wait(seconds=2)
    handing.tell(contract_id, 0)
    assert not reported(handing, job_id, 4_000)
    assert handing.contract(contract_id).used_ms == 4_000
    assert handing.contract(heir_of(contract_id)).terms.duration_ms == HOUR_MS - 4_000
    handing.stage.until_quiet()
    settled = handing.settled(contract_id)
    assert (settled.usage_ms, settled.released_grains) == (4_000, 0)
