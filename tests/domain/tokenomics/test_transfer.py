"""A transfer: legs that sum to zero, once for ever."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Personal, Refusal, new_scope, within
from domain.kernel.events import begun
from domain.kernel.tokens import MAX_GRAINS, AmountNotPositive, AmountTooLarge
from domain.tokenomics.accounts import FEES, INSURANCE, MINT, SYSTEM_ACCOUNT_NAMES, TREASURY, wallet_id_of
from domain.tokenomics.legs import SelfPayment, payment_legs
from domain.tokenomics.transfer import (
    MAX_LEGS,
    Leg,
    LegsDoNotSumToZero,
    RepeatedAccount,
    TooManyLegs,
    Transfer,
    TransferIdReused,
    TransferRejected,
    ZeroLeg,
    transfer_id_of,
)
from tests.facts import assert_replays, facts_of, refuses

A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)
ID = UUID(int=9)


@pytest.fixture(autouse=True)
def in_a_command() -> Iterator[None]:
    with within(new_scope("test")):
        yield


def test_a_posted_transfer_keeps_its_legs_in_the_order_of_their_accounts() -> None:
    memo = Personal(B, "rent")
    posted = Transfer.post(ID, "payment", [Leg(C, -3), Leg(A, 1), Leg(B, 2)], memo=memo, cause_event_id=A)
    legs = [Leg(A, 1), Leg(B, 2), Leg(C, -3)]
    fields = {"transfer_id": ID, "kind": "payment", "legs": legs, "memo": memo, "note": "", "cause_event_id": A}
    assert vars(posted).items() > fields.items()
    transfer = begun(posted)
    assert (transfer.id, transfer.kind, transfer.legs, transfer.rejected) == (ID, "payment", tuple(legs), False)
    assert (transfer.version, transfer.pending_events) == (1, [])


def test_a_rejected_transfer_has_no_legs() -> None:
    transfer = Transfer.reject(ID, "payment", "timed out")
    assert facts_of(transfer) == [
        (Transfer.Rejected, {"transfer_id": ID, "kind": "payment", "reason": "timed out"}),
    ]
    assert transfer.rejected
    assert_replays(transfer)


@pytest.mark.parametrize(
    ("legs", "rule"),
    [
        ([], TooManyLegs),
        ([Leg(A, 1)], TooManyLegs),
        ([Leg(A, 1), Leg(B, 0), Leg(C, -1)], ZeroLeg),
        ([Leg(A, 1), Leg(A, 1), Leg(B, -2)], RepeatedAccount),
        ([Leg(A, 1), Leg(B, -2)], LegsDoNotSumToZero),
        ([Leg(A, 2), Leg(B, -1)], LegsDoNotSumToZero),
        ([Leg(A, MAX_GRAINS + 1), Leg(B, -MAX_GRAINS - 1)], AmountTooLarge),
        ([Leg(UUID(int=n), 1) for n in range(MAX_LEGS)] + [Leg(MINT, -MAX_LEGS)], TooManyLegs),
    ],
)
def test_legs_that_are_no_transfer_are_refused_by_name(legs: list[Leg], rule: type[Refusal]) -> None:
    with refuses(rule):
        Transfer.post(ID, "payment", legs)


def test_a_transfer_has_up_to_501_legs_of_up_to_63_bits() -> None:
    many = [Leg(UUID(int=n), 1) for n in range(MAX_LEGS - 1)]
    assert len(Transfer.post(ID, "reward", [*many, Leg(MINT, 1 - MAX_LEGS)]).legs) == MAX_LEGS == 501
    assert Transfer.post(ID, "payment", [Leg(A, MAX_GRAINS), Leg(B, -MAX_GRAINS)]).legs[0].grains == MAX_GRAINS


def test_a_transfer_asked_for_again_is_the_same_in_any_order_of_legs() -> None:
    transfer = begun(Transfer.post(ID, "payment", [Leg(A, 1), Leg(B, -1)]))
    transfer.require_same("payment", [Leg(B, -1), Leg(A, 1)])
    with refuses(TransferIdReused, transfer):
        transfer.require_same("reward", [Leg(A, 1), Leg(B, -1)])
    with refuses(TransferIdReused, transfer):
        transfer.require_same("payment", [Leg(A, 2), Leg(B, -2)])
    with refuses(TransferIdReused, transfer):
        transfer.require_same("payment", [Leg(A, 1), Leg(C, -1)])


def test_a_rejected_transfer_is_never_the_one_asked_for() -> None:
    transfer = Transfer.reject(ID, "payment", "timed out")
    with refuses(TransferRejected, transfer):
        transfer.require_same("payment", [])


def test_the_same_business_key_gives_the_same_id_and_another_kind_another() -> None:
    assert transfer_id_of("payment", A, "x") == transfer_id_of("payment", A, "x")
    ids = [transfer_id_of("payment", A, "x"), transfer_id_of("payment", A, "y"), transfer_id_of("reward", A, "x")]
    assert len({*ids, transfer_id_of("payment", B, "x")}) == 4


def test_system_accounts_are_four_and_no_wallet_is_one_of_them() -> None:
    assert SYSTEM_ACCOUNT_NAMES == {
        MINT: "mint", TREASURY: "treasury", FEES: "fees", INSURANCE: "insurance",
    }  # fmt: skip
    assert wallet_id_of(MINT) not in SYSTEM_ACCOUNT_NAMES


@given(accounts=st.lists(st.uuids(), min_size=2, max_size=8, unique=True), data=st.data())
def test_what_is_posted_sums_to_zero_and_every_other_sum_is_refused(accounts: list[UUID], data: st.DataObject) -> None:
    amounts = st.integers(-(10**18), 10**18).filter(bool)
    grains = [data.draw(amounts) for _ in accounts]
    legs = [Leg(account, amount) for account, amount in zip(accounts, grains, strict=True)]
    with within(new_scope("test")):
        if sum(grains) == 0:
            assert sum(leg.grains for leg in Transfer.post(ID, "payment", legs).legs) == 0
            return
        with refuses(LegsDoNotSumToZero):
            Transfer.post(ID, "payment", legs)
        rest = Leg(uuid4(), -sum(grains))
        assert sum(leg.grains for leg in Transfer.post(ID, "payment", [*legs, rest]).legs) == 0


@given(gross=st.integers(1, MAX_GRAINS), fee_bp=st.integers(0, 9_999))
def test_a_payment_splits_into_payee_and_fee_to_the_grain(gross: int, fee_bp: int) -> None:
    fee = gross * fee_bp // 10_000
    legs = {leg.account: leg.grains for leg in payment_legs(A, B, gross, fee)}
    assert sum(legs.values()) == 0
    assert (legs[A], legs[B], legs.get(FEES, 0)) == (-gross, gross - fee, fee)
    assert 0 not in legs.values()


def test_a_payment_needs_two_parties_and_an_amount() -> None:
    with refuses(SelfPayment):
        payment_legs(A, A, 5, 0)
    with refuses(AmountNotPositive):
        payment_legs(A, B, 0, 0)
