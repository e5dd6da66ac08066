"""A wallet: facts in, facts out, and what no sequence of commands can break."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

import domain.tokenomics.wallet as rules
from domain.kernel import Refusal, new_scope, within
from domain.kernel.time import utc
from domain.kernel.tokens import MAX_GRAINS, AmountNotPositive, AmountTooLarge
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.wallet import (
    MAX_HOLDS,
    CaptureBeyondHold,
    HoldAlreadyEnded,
    HoldExpired,
    HoldIdReused,
    HoldNotExpired,
    HoldOfContract,
    HoldUnknown,
    InsufficientFunds,
    TooManyHolds,
    Wallet,
    contract_purpose,
)
from tests.facts import assert_replays, facts_of, names_of, refuses

NOW = utc(2026, 1, 1)
LATER = NOW + timedelta(hours=1)
HOLD, TRANSFER = UUID(int=1), UUID(int=2)


@pytest.fixture(autouse=True)
def in_a_command() -> Iterator[None]:
    with within(new_scope("test", now=NOW)):
        yield


def some_wallet(grains: int = 100) -> Wallet:
    """A wallet that has been credited."""
    owner_id = uuid4()
    wallet = Wallet(wallet_id=wallet_id_of(owner_id), owner_id=owner_id)
    if grains:
        wallet._credited(transfer_id=uuid4(), grains=grains)
    return wallet


def holding(grains: int = 60) -> Wallet:
    """A wallet of 100 grains with a hold."""
    wallet = some_wallet()
    wallet.hold(HOLD, grains, LATER, "job", NOW)
    return wallet


def test_a_new_wallet_is_empty() -> None:
    wallet = some_wallet(0)
    assert (wallet.posted, wallet.held, wallet.available, wallet.remainder) == (0, 0, 0, 0)
    assert names_of(wallet) == ["Opened"]
    assert_replays(wallet)


def test_an_owner_has_one_wallet() -> None:
    owner, other = uuid4(), uuid4()
    assert wallet_id_of(owner) == wallet_id_of(UUID(str(owner)))
    assert wallet_id_of(owner) not in (wallet_id_of(other), owner)


def test_a_hold_keeps_its_amount_back() -> None:
    wallet = holding(60)
    assert (wallet.posted, wallet.held, wallet.available) == (100, 60, 40)
    assert facts_of(wallet)[-1] == (
        Wallet.FundsHeld,
        {"hold_id": HOLD, "grains": 60, "expires_at": LATER, "purpose": "job"},
    )
    assert_replays(wallet)


def test_a_hold_of_all_there_is_is_possible_and_of_one_grain_more_is_not() -> None:
    wallet = some_wallet(100)
    with refuses(InsufficientFunds, wallet):
        wallet.hold(HOLD, 101, LATER, "job", NOW)
    wallet.hold(HOLD, 100, LATER, "job", NOW)
    with refuses(InsufficientFunds, wallet):
        wallet.hold(uuid4(), 1, LATER, "job", NOW)


def test_a_captured_hold_is_debited_and_the_rest_is_released() -> None:
    wallet = holding(60)
    wallet.capture(HOLD, 45, TRANSFER, NOW)
    assert (wallet.posted, wallet.held, wallet.available) == (55, 0, 55)
    assert facts_of(wallet)[-2:] == [
        (Wallet.HoldCaptured, {"hold_id": HOLD, "grains": 45, "released": 15}),
        (Wallet.Debited, {"transfer_id": TRANSFER, "grains": 45}),
    ]
    assert_replays(wallet)


def test_what_a_capture_releases_is_the_hold_less_what_is_captured() -> None:
    wallet = holding(60)
    wallet.capture(HOLD, 20, TRANSFER, NOW)
    assert facts_of(wallet)[-2] == (Wallet.HoldCaptured, {"hold_id": HOLD, "grains": 20, "released": 40})


def test_a_hold_may_be_captured_whole_and_not_beyond() -> None:
    wallet = holding(60)
    with refuses(CaptureBeyondHold, wallet):
        wallet.capture(HOLD, 61, TRANSFER, NOW)
    wallet.capture(HOLD, 60, TRANSFER, LATER - timedelta(microseconds=1))
    assert wallet.available == 40


def test_a_voided_hold_is_released_whole() -> None:
    wallet = holding(60)
    wallet.void(HOLD)
    assert (wallet.posted, wallet.held) == (100, 0)
    assert facts_of(wallet)[-1] == (Wallet.HoldVoided, {"hold_id": HOLD, "grains": 60})
    assert_replays(wallet)


def test_a_hold_expires_at_its_instant_and_not_before() -> None:
    wallet = holding(60)
    with refuses(HoldNotExpired, wallet):
        wallet.expire(HOLD, LATER - timedelta(microseconds=1))
    wallet.expire(HOLD, LATER)
    assert (wallet.posted, wallet.held) == (100, 0)
    assert facts_of(wallet)[-1] == (Wallet.HoldExpired, {"hold_id": HOLD, "grains": 60})
    assert_replays(wallet)


def test_a_hold_is_neither_made_nor_captured_at_or_after_the_instant_it_expires() -> None:
    wallet = holding(60)
    with refuses(HoldExpired, wallet):
        wallet.capture(HOLD, 1, TRANSFER, LATER)
    with refuses(HoldExpired, wallet):
        wallet.hold(uuid4(), 1, NOW, "job", NOW)


ENDS: list[Callable[[Wallet], None]] = [
    lambda wallet: wallet.capture(HOLD, 1, TRANSFER, NOW),
    lambda wallet: wallet.void(HOLD),
    lambda wallet: wallet.expire(HOLD, LATER),
]


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", [*ENDS, lambda wallet: wallet.hold(HOLD, 1, LATER, "again", NOW)])
def test_a_hold_ends_once_and_its_id_is_never_used_again(
    first: Callable[[Wallet], None], second: Callable[[Wallet], None]
) -> None:
    wallet = holding()
    first(wallet)
    with refuses(HoldAlreadyEnded, wallet):
        second(wallet)


@pytest.mark.parametrize("end", ENDS)
def test_a_hold_that_was_never_made_does_not_end(end: Callable[[Wallet], None]) -> None:
    wallet = some_wallet()
    with refuses(HoldUnknown, wallet):
        end(wallet)


def test_the_id_of_an_open_hold_names_no_other() -> None:
    wallet = holding()
    with refuses(HoldIdReused, wallet):
        wallet.hold(HOLD, 1, LATER, "job", NOW)


def test_a_wallet_has_at_most_a_thousand_open_holds() -> None:
    assert (MAX_HOLDS, rules.MAX_REMEMBERED) == (1_000, 10_000)
    wallet = some_wallet(MAX_HOLDS + 1)
    for _ in range(MAX_HOLDS):
        wallet.hold(uuid4(), 1, LATER, "job", NOW)
    with refuses(TooManyHolds, wallet):
        wallet.hold(uuid4(), 1, LATER, "job", NOW)


def test_a_debit_takes_what_is_available_and_no_grain_more() -> None:
    wallet = holding(60)
    with refuses(InsufficientFunds, wallet):
        wallet.debit(TRANSFER, 41, NOW)
    wallet.debit(TRANSFER, 40, NOW)
    assert (wallet.posted, wallet.available) == (60, 0)
    assert facts_of(wallet)[-1] == (Wallet.Debited, {"transfer_id": TRANSFER, "grains": 40})
    assert_replays(wallet)


def test_a_hold_that_is_due_gives_way_to_a_payment_that_needs_it() -> None:
    wallet = holding(60)
    with refuses(InsufficientFunds, wallet):
        wallet.debit(TRANSFER, 70, LATER - timedelta(microseconds=1))
    with refuses(InsufficientFunds, wallet):
        wallet.debit(TRANSFER, 101, LATER)
    assert (wallet.available, wallet.payable(NOW), wallet.payable(LATER)) == (40, 40, 100)
    wallet.debit(TRANSFER, 40, LATER)
    assert wallet.held == 60, "a payment that does not need it leaves it alone"
    wallet.hold(UUID(int=5), 60, LATER + timedelta(hours=1), "next job", LATER)
    assert names_of(wallet)[-3:] == ["Debited", "HoldExpired", "FundsHeld"]
    assert wallet.ended == {HOLD: LATER}
    assert_replays(wallet)


def test_a_payment_that_needs_it_ends_the_holds_that_are_due_and_no_other() -> None:
    wallet, other = holding(50), UUID(int=6)
    wallet.hold(other, 20, LATER + timedelta(hours=1), "job", NOW)
    since = LATER + timedelta(minutes=1)
    assert wallet.payable(since) == 80
    wallet.debit(TRANSFER, 70, since)
    assert set(wallet.holds) == {other}
    assert (wallet.posted, wallet.available) == (30, 10)


@pytest.mark.parametrize(
    ("grains", "refusal"),
    [(0, AmountNotPositive), (-1, AmountNotPositive), (True, AmountNotPositive), (MAX_GRAINS + 1, AmountTooLarge)],
)
def test_an_amount_is_positive_and_fits(grains: int, refusal: type[Refusal]) -> None:
    wallet = holding(60)
    with refuses(refusal, wallet):
        wallet.debit(TRANSFER, grains, NOW)
    with refuses(refusal, wallet):
        wallet.hold(uuid4(), grains, LATER, "job", NOW)
    with refuses(refusal, wallet):
        wallet.capture(HOLD, grains, TRANSFER, NOW)


def test_a_remainder_is_recorded_only_when_it_changes() -> None:
    wallet = some_wallet(0)
    wallet.carry(UUID(int=3), 0)
    wallet.carry(UUID(int=3), 7)
    wallet.carry(UUID(int=4), 7)
    assert facts_of(wallet)[1:] == [(Wallet.RemainderCarried, {"claim_id": UUID(int=3), "remainder": 7})]
    assert wallet.remainder == 7
    assert_replays(wallet)


def test_only_credits_commute() -> None:
    assert Wallet.Credited.commutes
    events = (Wallet.Opened, Wallet.FundsHeld, Wallet.HoldCaptured, Wallet.HoldVoided, Wallet.HoldExpired)
    assert not any(kind.commutes for kind in (*events, Wallet.Debited, Wallet.RemainderCarried))


class WalletLife(RuleBasedStateMachine):
    """A model beside the wallet: what came in, what went out, which holds are open and which ended."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.scope = within(new_scope("test", now=NOW))
        self.scope.__enter__()
        self.now: datetime = NOW
        self.wallet = some_wallet(0)
        self.came, self.went = 0, 0
        self.open: dict[UUID, tuple[int, datetime]] = {}
        self.ended: dict[UUID, int] = {}

    def teardown(self) -> None:
        assert_replays(self.wallet)
        self.scope.__exit__(None, None, None)

    def held(self) -> int:
        return sum(grains for grains, _ in self.open.values())

    def due(self) -> list[UUID]:
        return [hold_id for hold_id, (_, expires_at) in self.open.items() if expires_at <= self.now]

    def payable(self) -> int:
        return self.came - self.went - self.held() + sum(self.open[hold_id][0] for hold_id in self.due())

    def freed(self, grains: int) -> None:
        """What the wallet does with holds that are due when it lacks an amount."""
        if grains > self.came - self.went - self.held():
            for hold_id in self.due():
                self.end(hold_id)

    @rule(grains=st.integers(1, 1_000))
    def credit(self, grains: int) -> None:
        self.wallet._credited(transfer_id=uuid4(), grains=grains)
        self.came += grains

    @rule(grains=st.integers(-5, 1_000))
    def debit(self, grains: int) -> None:
        if self.tried(lambda: self.wallet.debit(uuid4(), grains, self.now), 0 < grains <= self.payable()):
            self.freed(grains)
            self.went += grains

    @rule(target=holds, grains=st.integers(-5, 500), minutes=st.integers(-1, 20))
    def hold(self, grains: int, minutes: int) -> UUID:
        hold_id, expires_at = uuid4(), self.now + timedelta(minutes=minutes)
        allowed = 0 < grains <= self.payable() and minutes > 0
        if self.tried(lambda: self.wallet.hold(hold_id, grains, expires_at, "job", self.now), allowed):
            self.freed(grains)
            self.open[hold_id] = (grains, expires_at)
        return hold_id

    @rule(hold_id=holds, grains=st.integers(-5, 500))
    def capture(self, hold_id: UUID, grains: int) -> None:
        amount, expires_at = self.open.get(hold_id, (0, NOW))
        if self.tried(
            lambda: self.wallet.capture(hold_id, grains, uuid4(), self.now),
            0 < grains <= amount and self.now < expires_at,
        ):
            self.end(hold_id)
            self.went += grains

    @rule(hold_id=holds)
    def void(self, hold_id: UUID) -> None:
        if self.tried(lambda: self.wallet.void(hold_id), hold_id in self.open):
            self.end(hold_id)

    @rule(hold_id=holds)
    def expire(self, hold_id: UUID) -> None:
        due = hold_id in self.open and self.now >= self.open[hold_id][1]
        if self.tried(lambda: self.wallet.expire(hold_id, self.now), due):
            self.end(hold_id)

    @rule(minutes=st.integers(1, 10))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @invariant()
    def available_is_posted_less_held_and_never_below_zero(self) -> None:
        assert self.wallet.posted == self.came - self.went
        assert self.wallet.held == self.held()
        assert self.wallet.available == self.wallet.posted - self.wallet.held >= 0

    @invariant()
    def every_hold_ends_at_most_once(self) -> None:
        assert set(self.wallet.holds) == set(self.open)
        assert set(self.wallet.ended) == set(self.ended)
        assert all(times == 1 for times in self.ended.values())

    def tried(self, command: Callable[[], None], allowed: bool) -> bool:
        """Run a command that the model allows or not; a refusal changes nothing."""
        pending = len(self.wallet.pending_events)
        try:
            command()
        except Refusal:
            assert not allowed
            assert len(self.wallet.pending_events) == pending
            return False
        assert allowed
        return True

    def end(self, hold_id: UUID) -> None:
        del self.open[hold_id]
        self.ended[hold_id] = self.ended.get(hold_id, 0) + 1


TestWalletLife = WalletLife.TestCase
TestWalletLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_wallet_full_of_holds_whose_instants_have_not_come_makes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_REMEMBERED", 2)
    wallet, soon = some_wallet(), NOW + timedelta(minutes=1)
    for hold_id, expires_at in ((UUID(int=7), LATER), (UUID(int=8), soon)):
        wallet.hold(hold_id, 1, expires_at, "job", NOW)
        wallet.void(hold_id)
    with refuses(TooManyHolds, wallet):
        wallet.hold(UUID(int=9), 1, LATER, "job", soon - timedelta(microseconds=1))
    wallet.hold(UUID(int=9), 1, LATER, "job", soon)
    assert set(wallet.ended) == {UUID(int=7)}
    assert_replays(wallet)


@given(steps=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.sampled_from(["captured", "voided", "open"]))))
def test_what_a_wallet_has_forgotten_is_still_refused_by_name(steps: list[tuple[int, int, str]]) -> None:
    """Whatever was held and ended, sent again as it was, is refused; only what is past its instant is forgotten."""
    with pytest.MonkeyPatch.context() as limited, within(new_scope("test", now=NOW)):
        limited.setattr(rules, "MAX_REMEMBERED", 4)
        limited.setattr(rules, "MAX_HOLDS", 3)
        wallet, now, ended = some_wallet(1_000), NOW, dict[UUID, datetime]()
        for number, (lasts, passes, how) in enumerate(steps):
            hold_id, expires_at = UUID(int=number), now + timedelta(minutes=lasts)
            try:
                wallet.hold(hold_id, 1, expires_at, "job", now)
            except TooManyHolds:
                assert len(wallet.holds) == 3 or len(wallet.holds) + len(wallet.ended) == 4
            else:
                if how == "captured":
                    wallet.capture(hold_id, 1, uuid4(), now)
                elif how == "voided":
                    wallet.void(hold_id)
                if how != "open":
                    ended[hold_id] = expires_at
            now += timedelta(minutes=passes)
            for due in [hold_id for hold_id, held in wallet.holds.items() if held.expires_at <= now]:
                ended[due] = wallet.holds[due].expires_at
                wallet.expire(due, now)
            assert len(wallet.holds) + len(wallet.ended) <= 4
            decided = len(wallet.pending_events)
            for old, expired_at in ended.items():
                assert old in wallet.ended or expired_at <= now
                again, unknown = (HoldAlreadyEnded,) * 2 if old in wallet.ended else (HoldExpired, HoldUnknown)
                with pytest.raises(again):
                    wallet.hold(old, 1, expired_at, "job", now)
                with pytest.raises(unknown):
                    wallet.void(old)
                with pytest.raises(unknown):
                    wallet.capture(old, 1, uuid4(), now)
            assert len(wallet.pending_events) == decided
        assert_replays(wallet)


def test_a_hold_for_a_contract_is_ended_by_that_contract_only_or_by_its_instant() -> None:
    mine = UUID(int=5)

    def for_contract() -> Wallet:
        wallet = some_wallet()
        wallet.hold(HOLD, 60, LATER, contract_purpose(mine), NOW)
        return wallet

    for stranger in (None, UUID(int=4), UUID(int=6)):
        wallet = for_contract()
        with refuses(HoldOfContract, wallet):
            wallet.capture(HOLD, 60, TRANSFER, NOW, stranger)
        with refuses(HoldOfContract, wallet):
            wallet.void(HOLD, stranger)
    captured, voided, expired = for_contract(), for_contract(), for_contract()
    captured.capture(HOLD, 60, TRANSFER, NOW, UUID(str(mine)))
    voided.void(HOLD, UUID(str(mine)))
    expired.expire(HOLD, LATER)
    assert [wallet.posted for wallet in (captured, voided, expired)] == [40, 100, 100]
    assert all(not wallet.holds for wallet in (captured, voided, expired))


def test_a_contract_may_end_a_hold_that_is_for_no_contract() -> None:
    wallet = holding(60)
    wallet.void(HOLD, uuid4())
    assert wallet.available == 100


def test_a_hold_is_not_captured_long_after_its_instant_either() -> None:
    wallet = holding(60)
    with refuses(HoldExpired, wallet):
        wallet.capture(HOLD, 60, TRANSFER, LATER + timedelta(hours=1))


def test_a_smaller_fraction_of_a_grain_is_remembered_as_well_as_a_greater_one() -> None:
    wallet = some_wallet()
    for remainder in ("7000", "3000", "3000", "5000", "0"):
        wallet.carry(uuid4(), int(remainder))
        assert wallet.remainder == int(remainder)
    assert names_of(wallet).count("RemainderCarried") == 4
