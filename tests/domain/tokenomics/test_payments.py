"""Payments on a real log: once, in full, never beyond what is available."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.kernel import AlreadyExists, Refusal
from domain.kernel.errors import PositionAhead
from domain.kernel.personal import sealed_text
from domain.kernel.tokens import MAX_GRAINS, AmountNotPositive, AmountTooLarge
from domain.tokenomics.accounts import FEES, wallet_id_of
from domain.tokenomics.legs import SelfPayment
from domain.tokenomics.payments import PaymentCapability, PaymentKind, WalletBalance
from domain.tokenomics.service import TokenomicsService
from domain.tokenomics.transfer import Transfer, TransferIdReused, TransferRejected
from domain.tokenomics.wallet import HoldAlreadyEnded, InsufficientFunds, WalletUnknown
from tests.economy import Books, MemoryEconomy, assert_sound


def test_a_payment_is_one_transaction_of_debit_transfer_and_credit(economy: Books) -> None:
    payer, payee = economy.given(1_000), economy.given(0)
    before = economy.log.head()
    receipt = economy.pay(payer, payee, 400, memo="for the music")
    facts = [fact for fact in economy.facts() if fact.position > before]
    assert [type(fact.event).__qualname__ for fact in facts] == [
        "Wallet.Debited", "Transfer.Posted", "Wallet.Credited",
    ]  # fmt: skip
    assert len({fact.command_id for fact in facts}) == 1
    assert (receipt.position, receipt.extra) == (facts[-1].position, {"grains": "400", "fee_grains": "0"})
    assert (economy.wallet(payer).available, economy.wallet(payee).available) == (600, 400)
    assert_sound(economy.facts())


def test_a_payment_sent_again_with_its_id_is_answered_as_before_and_paid_once(economy: Books) -> None:
    payer, payee = economy.given(1_000), economy.given(0)
    first = economy.pay(payer, payee, 800, "invoice 7")
    head = economy.log.head()
    again = economy.pay(payer, payee, 800, "invoice 7")
    assert (again.id, again.extra) == (first.id, first.extra)
    assert economy.log.head() == head
    assert economy.wallet(payee).available == 800


def test_a_payment_sent_again_with_its_idempotency_key_gets_the_first_answer_to_the_letter(economy: Books) -> None:
    payer, payee = economy.given(1_000), economy.given(0)
    order: dict[str, Any] = {"payment_id": "k", "from_owner_id": payer, "to_owner_id": payee, "grains": 5}
    answers = []
    for _ in range(3):
        with economy.acting(idempotency_key="k", body_hash=b"h"):
            answers.append(economy.service.process_payment(**order))
    assert answers == answers[:1] * 3


def test_a_payment_made_twice_in_one_transaction_is_paid_once(economy: Books) -> None:
    payer, payee = economy.given(1_000), economy.given(0)
    before = economy.log.head()
    with economy.acting():
        economy.log.transact(lambda: [economy.pay(payer, payee, 800, "invoice 7") for _ in range(2)])
    assert economy.log.head() == before + 3
    assert economy.wallet(payee).available == 800
    with economy.acting(), pytest.raises(TransferIdReused):
        economy.log.transact(lambda: [economy.pay(payer, payee, grains, "invoice 8") for grains in (1, 2)])
    assert_sound(economy.facts())


def test_the_id_of_a_payment_never_names_another_payment(economy: Books) -> None:
    payer, payee = economy.given(1_000), economy.given(0)
    economy.pay(payer, payee, 10, "invoice 7")
    with pytest.raises(TransferIdReused):
        economy.pay(payer, payee, 11, "invoice 7")
    with pytest.raises(TransferIdReused):
        economy.pay(payer, economy.given(0), 10, "invoice 7")


def test_two_payers_may_use_the_same_payment_id(economy: Books) -> None:
    payee = economy.given(0)
    assert economy.pay(economy.given(5), payee, 5, "1").id != economy.pay(economy.given(5), payee, 5, "1").id


def test_a_rejected_payment_stays_rejected(economy: Books) -> None:
    payer, payee = economy.given(100), economy.given(0)
    with economy.acting():
        economy.service.reject_payment(payment_id="late", from_owner_id=payer, kind="payment", reason="timed out")
    with pytest.raises(TransferRejected, match="timed out"):
        economy.pay(payer, payee, 10, "late")
    assert economy.wallet(payer).available == 100


def test_a_posted_payment_cannot_be_rejected(economy: Books) -> None:
    payer = economy.given(100)
    economy.pay(payer, economy.given(0), 10, "done")
    with economy.acting(), pytest.raises(AlreadyExists):
        economy.service.reject_payment(payment_id="done", from_owner_id=payer, kind="payment", reason="too late")


def test_a_service_payment_leaves_the_fee_rounded_down_with_the_village(economy: Books) -> None:
    payer, payee = economy.given(10_000), economy.given(0)
    receipt = economy.pay(payer, payee, 199, kind="service_payment")
    assert receipt.extra == {"grains": "199", "fee_grains": "3"}
    transfer = economy.log.load(Transfer, receipt.id)
    assert {leg.account: leg.grains for leg in transfer.legs} == {
        wallet_id_of(payer): -199, wallet_id_of(payee): 196, FEES: 3,
    }  # fmt: skip
    assert_sound(economy.facts())


def test_a_service_payment_too_small_for_a_fee_has_no_empty_leg(economy: Books) -> None:
    payer, payee = economy.given(49), economy.given(0)
    transfer = economy.log.load(Transfer, economy.pay(payer, payee, 49, kind="service_payment").id)
    assert len(transfer.legs) == 2


STRANGER = UUID(int=7)


@pytest.mark.parametrize(
    ("grains", "payee", "rule"),
    [
        (1_001, None, InsufficientFunds),
        (0, None, AmountNotPositive),
        (-5, None, AmountNotPositive),
        (MAX_GRAINS + 1, None, AmountTooLarge),
        (1.5, None, AmountNotPositive),
        (True, None, AmountNotPositive),
        (10, STRANGER, WalletUnknown),
        (10, "self", SelfPayment),
    ],
)
def test_a_payment_that_cannot_be_is_refused_and_records_nothing(
    economy: Books, grains: Any, payee: Any, rule: type[Refusal]
) -> None:
    payer, friend = economy.given(1_000), economy.given(0)
    head = economy.log.head()
    with pytest.raises(rule):
        economy.pay(payer, {None: friend, "self": payer}.get(payee, payee), grains)
    assert economy.log.head() == head


def test_only_an_open_wallet_pays(economy: Books) -> None:
    with pytest.raises(WalletUnknown):
        economy.pay(uuid4(), economy.given(0), 1)


def test_what_is_held_cannot_be_paid_until_it_is_released(economy: Books) -> None:
    payer, payee, hold_id = economy.given(1_000), economy.given(0), uuid4()
    with economy.acting():
        economy.service.hold_funds(
            owner_id=payer, hold_id=hold_id, grains=700, expires_at=economy.now + timedelta(hours=1), purpose="job"
        )
    with pytest.raises(InsufficientFunds):
        economy.pay(payer, payee, 301)
    with economy.acting():
        economy.service.void_hold(owner_id=payer, hold_id=hold_id)
    economy.pay(payer, payee, 1_000)
    assert economy.wallet(payer).posted == 0


def test_a_captured_hold_pays_the_payee_less_the_fee_and_releases_the_rest(economy: Books) -> None:
    payer, payee, hold_id = economy.given(1_000), economy.given(0), uuid4()
    with economy.acting():
        economy.service.hold_funds(
            owner_id=payer, hold_id=hold_id, grains=700, expires_at=economy.now + timedelta(hours=1), purpose="job"
        )
        economy.service.capture_hold(
            owner_id=payer, hold_id=hold_id, to_owner_id=payee, grains=500, kind="service_payment"
        )
    wallet = economy.wallet(payer)
    assert (wallet.posted, wallet.held, wallet.available) == (500, 0, 500)
    assert economy.wallet(payee).available == 490
    with economy.acting(), pytest.raises(HoldAlreadyEnded):
        economy.service.capture_hold(owner_id=payer, hold_id=hold_id, to_owner_id=payee, grains=1)
    assert_sound(economy.facts())


def test_a_hold_expires_at_its_instant(economy: Books) -> None:
    payer, hold_id = economy.given(10), uuid4()
    with economy.acting():
        economy.service.hold_funds(
            owner_id=payer, hold_id=hold_id, grains=10, expires_at=economy.now + timedelta(hours=1), purpose="job"
        )
    economy.now += timedelta(hours=1)
    with economy.acting():
        economy.service.expire_hold(owner_id=payer, hold_id=hold_id)
    assert economy.wallet(payer).available == 10


def test_a_capability_says_what_is_lacking_and_what_the_fee_would_be(economy: Books) -> None:
    payer = economy.given(1_000)

    def asked(owner_id: UUID, grains: int, kind: PaymentKind = "payment") -> PaymentCapability:
        return economy.service.verify_payment_capability(owner_id=owner_id, grains=grains, now=economy.now, kind=kind)

    can, cannot, nobody = asked(payer, 1_000, "service_payment"), asked(payer, 1_500), asked(uuid4(), 1)
    assert (can.capable, can.shortfall, can.fee, can.available) == (True, 0, 20, 1_000)
    assert (cannot.capable, cannot.shortfall, cannot.fee) == (False, 500, 0)
    assert (nobody.capable, nobody.shortfall, nobody.available, nobody.held) == (False, 1, 0, 0)
    assert (asked(payer, 999).capable, asked(payer, 999).shortfall) == (True, 0)


def test_a_capability_counts_what_is_held_until_it_is_due(economy: Books) -> None:
    payer = economy.given(1_000)
    with economy.acting():
        economy.service.hold_funds(
            owner_id=payer, hold_id=uuid4(), grains=600, expires_at=economy.now + timedelta(hours=1), purpose="job"
        )
    for hours, available, held, shortfall in ((0, 400, 600, 500), (1, 1_000, 0, 0), (2, 1_000, 0, 0)):
        found = economy.service.verify_payment_capability(
            owner_id=payer, grains=900, now=economy.now + timedelta(hours=hours)
        )
        assert (found.cost, found.available, found.held, found.shortfall) == (900, available, held, shortfall)
        assert found.capable is (shortfall == 0)


def test_the_balance_is_that_of_the_log(economy: Books) -> None:
    owner = economy.given(42)
    balance = economy.service.get_wallet_balance(owner_id=owner)
    assert (balance.posted, balance.held, balance.available) == (42, 0, 42)
    with pytest.raises(WalletUnknown):
        economy.service.get_wallet_balance(owner_id=uuid4())


def test_a_balance_of_the_past_is_what_it_was_then(economy: Books) -> None:
    unborn = economy.log.head()
    owner, other = economy.given(100), economy.given(0)
    seen = {}
    for grains in (10, 20):
        seen[economy.log.head()] = economy.service.get_wallet_balance(owner_id=owner)
        economy.pay(owner, other, grains)
    seen[economy.log.head()] = economy.service.get_wallet_balance(owner_id=owner)
    assert [balance.available for balance in seen.values()] == [100, 90, 70]
    for position, balance in seen.items():
        assert economy.service.get_wallet_balance(owner_id=owner, as_of=position) == balance
    with pytest.raises(WalletUnknown):
        economy.service.get_wallet_balance(owner_id=owner, as_of=unborn)
    with pytest.raises(PositionAhead):
        economy.service.get_wallet_balance(owner_id=owner, as_of=economy.log.head() + 1)


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["pay", "hold", "service_payment"]), st.integers(1, 60)), max_size=8))
def test_a_balance_at_any_position_is_the_one_that_was_answered_then(steps: list[tuple[str, int]]) -> None:
    economy = MemoryEconomy()
    owners = economy.given(100), economy.given(50)

    def balances(as_of: int | None = None) -> list[WalletBalance]:
        return [economy.service.get_wallet_balance(owner_id=owner, as_of=as_of) for owner in owners]

    seen = {economy.log.head(): balances()}
    for number, (step, grains) in enumerate(steps):
        payer, payee = owners if number % 2 else reversed(owners)
        with suppress(InsufficientFunds), economy.acting():
            if step == "hold":
                economy.service.hold_funds(
                    owner_id=payer, hold_id=uuid4(), grains=grains, expires_at=economy.now + timedelta(hours=1)
                )
            else:
                economy.pay(payer, payee, grains, kind="service_payment" if step == "service_payment" else "payment")
        seen[economy.log.head()] = balances()
    assert {position: balances(position) for position in seen} == seen
    assert all(balance.available >= 0 for found in seen.values() for balance in found)
    assert_sound(economy.facts())


@settings(max_examples=25, deadline=None)
@given(
    orders=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 50)), min_size=1, max_size=6),
    data=st.data(),
)
def test_payments_delivered_again_and_in_any_order_by_any_process_are_paid_once_each(
    orders: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    economy = MemoryEconomy()
    owners = [economy.given(1_000) for _ in range(3)]
    before = economy.log.head()
    processes = [economy.service, TokenomicsService(economy.opened_log())]
    numbers = st.sampled_from(range(len(orders)))
    again = data.draw(st.lists(numbers, max_size=10))
    deliveries = data.draw(st.permutations([*range(len(orders)), *again]))
    answers: dict[int, Any] = {}
    for number in deliveries:
        payer, further, grains = orders[number]
        key = {"idempotency_key": f"key {number}", "body_hash": b"h"} if data.draw(st.booleans()) else {}
        with economy.acting(**key):
            answer = data.draw(st.sampled_from(processes)).process_payment(
                payment_id=f"order {number}", from_owner_id=owners[payer],
                to_owner_id=owners[(payer + 1 + further % 2) % 3], grains=grains,
            )  # fmt: skip
        assert (answer.id, answer.extra) == answers.setdefault(number, (answer.id, answer.extra))
    expected = [1_000, 1_000, 1_000]
    for payer, further, grains in orders:
        expected[payer] -= grains
        expected[(payer + 1 + further % 2) % 3] += grains
    assert [economy.wallet(owner).available for owner in owners] == expected
    assert economy.log.head() == before + 3 * len(orders)
    assert_sound(economy.facts())


def test_opening_a_wallet_twice_is_opening_it_once(economy: Books) -> None:
    owner = economy.given(7)
    with economy.acting():
        economy.service.open_wallet(owner_id=owner)
    assert economy.wallet(owner).available == 7


def test_eight_threads_paying_from_one_wallet_never_overdraw_it(economy: Books) -> None:
    payer, payee = economy.given(100), economy.given(0)

    def pay(_: int) -> bool:
        try:
            economy.pay(payer, payee, 7)
        except InsufficientFunds:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        paid = sum(threads.map(pay, range(40)))
    assert paid == 14
    assert economy.wallet(payer).available == 2
    assert economy.wallet(payee).available == 98
    assert_sound(economy.facts())


def test_thirty_two_callers_paying_from_one_wallet_are_all_served(economy: Books) -> None:
    payer, payee = economy.given(1_000), economy.given(0)
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda _: economy.pay(payer, payee, 1), range(320)))
    assert (economy.wallet(payer).available, economy.wallet(payee).available) == (680, 320)


def test_thirty_two_callers_crediting_one_hot_wallet_lose_none(economy: Books) -> None:
    payee = economy.given(0)
    payers = [economy.given(10) for _ in range(32)]

    def pay(payer: UUID) -> None:
        for _ in range(5):
            economy.pay(payer, payee, 2)

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(pay, payers))
    assert economy.wallet(payee).available == 320
    assert_sound(economy.facts())


def test_one_payment_sent_by_eight_threads_at_once_is_paid_once(economy: Books) -> None:
    payer, payee = economy.given(100), economy.given(0)
    with ThreadPoolExecutor(8) as threads:
        receipts = list(threads.map(lambda _: economy.pay(payer, payee, 60, "once"), range(8)))
    assert len({receipt.id for receipt in receipts}) == 1
    assert economy.wallet(payee).available == 60


def test_payments_that_are_decided_again_and_again_keep_each_its_own_memo(economy: Books) -> None:
    payer, payee = economy.given(100), economy.given(0)
    with closing(economy.opened_log()) as another:
        services = [economy.service, TokenomicsService(another)]

        def pay(number: int) -> UUID | None:
            with economy.acting(idempotency_key=f"key {number // 2}", body_hash=b"h"):  # each is sent twice
                return services[number % 2].process_payment(
                    payment_id=f"{number // 2}", from_owner_id=payer, to_owner_id=payee, grains=1,
                    memo=f"memo {number // 2}",
                ).id  # fmt: skip

        with ThreadPoolExecutor(8) as threads:
            paid = list(threads.map(pay, range(40)))
    assert len(set(paid)) == 20
    told = memos(economy)
    assert (len(told), set(told)) == (20, {f"memo {number}" for number in range(20)})


def test_payments_of_one_transaction_are_sealed_each_for_its_own_event(economy: Books) -> None:
    payer, payee = economy.given(100), economy.given(0)

    def both() -> None:
        for memo in ("first", "second"):
            economy.service.process_payment(
                payment_id=memo, from_owner_id=payer, to_owner_id=payee, grains=1, memo=memo
            )

    with economy.acting():
        economy.log.transact(both)
    assert memos(economy) == ["first", "second"]


def memos(economy: Books) -> list[str | None]:
    """The memos of all transfers, in order."""
    posted = [fact for fact in economy.facts() if isinstance(fact.event, Transfer.Posted)]
    return [economy.read(text) for fact in posted if (text := sealed_text(fact, "memo")) is not None]
