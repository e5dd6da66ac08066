"""Legs: what a payment takes is what it gives, to the grain, whatever fee and penalty are."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.tokens import AmountNotPositive
from domain.tokenomics.accounts import (
    FEES,
    INSURANCE,
    MINT,
    SYSTEM_ACCOUNT_NAMES,
    SYSTEM_ACCOUNTS,
    TREASURY,
    system_account,
)
from domain.tokenomics.legs import SelfPayment, credits, payment_legs
from domain.tokenomics.transfer import Leg

PAYER, PAYEE = UUID(int=1), UUID(int=2)


def given_to(legs: list[Leg]) -> dict[UUID, int]:
    return {leg.account: leg.grains for leg in legs}


def test_the_payee_gets_the_gross_less_fee_and_penalty() -> None:
    assert given_to(payment_legs(PAYER, PAYEE, 100, 2)) == {PAYER: -100, PAYEE: 98, FEES: 2}
    assert given_to(payment_legs(PAYER, PAYEE, 100, 2, 30)) == {PAYER: -100, PAYEE: 68, FEES: 2, INSURANCE: 30}
    assert given_to(payment_legs(PAYER, PAYEE, 100, 0)) == {PAYER: -100, PAYEE: 100}


def test_a_penalty_takes_at_most_what_the_payee_would_get_and_no_leg_is_of_nothing() -> None:
    assert given_to(payment_legs(PAYER, PAYEE, 100, 2, 97)) == {PAYER: -100, PAYEE: 1, FEES: 2, INSURANCE: 97}
    for penalty in (98, 99, 10**9):
        assert given_to(payment_legs(PAYER, PAYEE, 100, 2, penalty)) == {PAYER: -100, FEES: 2, INSURANCE: 98}


def test_nobody_pays_themselves_or_nothing() -> None:
    with pytest.raises(SelfPayment):
        payment_legs(PAYER, UUID(int=1), 100, 0)
    for gross in (0, -1):
        with pytest.raises(AmountNotPositive):
            payment_legs(PAYER, PAYEE, gross, 0)


@given(gross=st.integers(1, 2**63 - 1), fee_bp=st.integers(0, 10_000), penalty=st.integers(0, 2**63 - 1))
def test_what_is_taken_is_what_is_given(gross: int, fee_bp: int, penalty: int) -> None:
    legs = given_to(payment_legs(PAYER, PAYEE, gross, gross * fee_bp // 10_000, penalty))
    assert sum(legs.values()) == 0
    assert legs.pop(PAYER) == -gross
    assert all(grains > 0 for grains in legs.values())


def test_only_wallets_that_gain_are_told_of_a_credit() -> None:
    transfer_id = uuid4()
    told = credits(transfer_id, [Leg(PAYER, -5), Leg(PAYEE, 1), Leg(FEES, 3), Leg(INSURANCE, 1), Leg(UUID(int=3), 0)])
    assert [(fact.originator_id, fact.transfer_id, fact.grains) for fact in told] == [(PAYEE, transfer_id, 1)]


def test_system_accounts_are_four_and_each_has_its_own_id() -> None:
    assert SYSTEM_ACCOUNTS == ("mint", "treasury", "fees", "insurance")
    assert [system_account(name) for name in SYSTEM_ACCOUNTS] == [MINT, TREASURY, FEES, INSURANCE]
    assert len(set(SYSTEM_ACCOUNT_NAMES)) == 4
    with pytest.raises(AssertionError):
        system_account("wallets")
