"""A contract: facts in, facts out, and what no sequence of commands can break."""

import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from domain.kernel import Refusal, new_scope, within
from domain.kernel.tokens import MAX_GRAINS, AmountNotPositive, AmountTooLarge
from domain.marketplace.contract import Contract
from domain.marketplace.offering import OfferingWithdrawn, UnitsInvalid
from domain.marketplace.settlement import NOTHING, Paid, due_of, reviewed_until
from domain.marketplace.sla import Measured
from domain.marketplace.states import (
    ACTIVE,
    BREACHED,
    CANCELLED,
    COMPLETED,
    ENDED,
    EXPIRED,
    SETTLED,
    AlreadyDisputed,
    AlreadySettled,
    ContractUnknown,
    DeadlineNotReached,
    DeadlineTooClose,
    NotDisputed,
    UsageBeyondContract,
    WindowNotOver,
    WindowOutOfOrder,
    WrongContractState,
    WrongParty,
    require_party,
)
from domain.marketplace.terms import PriceBeyondLimit, SelfDealing, TermInvalid
from tests.facts import assert_replays, facts_of, names_of, refuses
from tests.trading import (
    CUSTOMER,
    EVIDENCE,
    HOUR,
    HOUR_MS,
    NOW,
    PRICE,
    PROVIDER,
    SLA,
    active,
    measured,
    proposed,
    some_offering,
    some_terms,
)

REVIEW = timedelta(minutes=15)


def after(ms: int) -> datetime:
    return NOW + timedelta(milliseconds=ms)


def test_a_contract_has_the_terms_of_its_offering_whatever_becomes_of_that() -> None:
    offering = some_offering()
    contract = proposed(offering, units=3)
    offering.withdraw()
    assert (contract.terms.agreed_price, contract.terms.sla) == (3 * PRICE, SLA)
    name, fields = facts_of(contract)[0]
    assert name is Contract.ServiceContractCreated
    assert (fields["provider_id"], fields["customer_id"], fields["agreed_price"]) == (PROVIDER, CUSTOMER, 3 * PRICE)
    assert_replays(contract)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"customer_id": PROVIDER}, SelfDealing),
        ({"units": 0}, UnitsInvalid),
        ({"units": 5}, UnitsInvalid),
        ({"duration_ms": 0}, TermInvalid),
        ({"duration_ms": -1}, TermInvalid),
        ({"duration_ms": 2 * HOUR_MS + 1}, TermInvalid),
        ({"deadline_at": NOW + timedelta(days=367)}, TermInvalid),
        ({"deadline_at": NOW + timedelta(days=8)}, TermInvalid),
        ({"max_price_grains": PRICE - 1}, PriceBeyondLimit),
        ({"now": NOW + 24 * HOUR}, OfferingWithdrawn),
    ],
)
def test_terms_that_cannot_be_are_refused(change: dict[str, Any], rule: Any) -> None:
    with refuses(rule):
        some_terms(**change)


def test_a_price_of_nothing_or_beyond_what_a_wallet_holds_is_refused() -> None:
    with refuses(AmountNotPositive):
        some_terms(some_offering(price_grains_per_hour=1), duration_ms=1)
    with refuses(AmountTooLarge):
        some_terms(some_offering(price_grains_per_hour=MAX_GRAINS), units=2, max_price_grains=10**30)


def test_a_contract_is_reserved_started_used_completed_and_settled() -> None:
    contract = active()
    contract.report_usage(HOUR_MS // 4, after(HOUR_MS // 2))
    contract.report_usage(HOUR_MS, after(HOUR_MS))
    paid = Paid(uuid4(), PRICE, 1, 0, PRICE - 1, 0)
    contract.settle(paid)
    assert names_of(contract)[1:] == ["Reserved", "Activated", *["UsageReported"] * 2, "Completed", "Settled"]
    assert contract.status == SETTLED
    assert_replays(contract)


def test_usage_is_cumulative_so_reports_that_come_twice_or_late_add_nothing() -> None:
    contract = active()
    for cumulative_ms in (5_000, 5_000, 2_000, 0):
        contract.report_usage(cumulative_ms, after(10_000))
    assert (contract.used_ms, names_of(contract).count("UsageReported")) == (5_000, 1)


def test_usage_beyond_the_contract_or_the_time_that_passed_is_refused() -> None:
    contract = active()
    for cumulative_ms, at_ms in ((-1, 10), (11, 10), (HOUR_MS + 1, 2 * HOUR_MS), (2 * HOUR_MS, 9 * HOUR_MS)):
        with refuses(UsageBeyondContract, contract):
            contract.report_usage(cumulative_ms, after(at_ms))


def test_what_was_delivered_before_the_end_can_be_reported_after_it() -> None:
    contract = active()
    contract.cancel("enough", after(1_000))
    with refuses(UsageBeyondContract, contract):
        contract.report_usage(1_001, after(5_000))
    contract.report_usage(1_000, after(5_000))
    assert due_of(contract).usage_grains == 10_000


def test_a_contract_starts_only_while_there_is_time_for_all_of_it() -> None:
    contract = proposed()
    contract.reserve(uuid4())
    with refuses(DeadlineTooClose, contract):
        contract.activate(NOW + HOUR + timedelta(milliseconds=1))
    contract.activate(NOW + HOUR)
    assert contract.status == ACTIVE


ENDS: list[tuple[str, Callable[[Contract], None]]] = [
    (COMPLETED, lambda contract: contract.complete(after(10))),
    (BREACHED, lambda contract: contract.breach("gone", after(10))),
    (CANCELLED, lambda contract: contract.cancel("enough", after(10))),
    (EXPIRED, lambda contract: contract.expire(NOW + 2 * HOUR)),
]


@pytest.mark.parametrize(("status", "end"), ENDS)
def test_a_contract_ends_once_and_then_is_settled_once(status: str, end: Callable[[Contract], None]) -> None:
    contract = active()
    with refuses(WrongContractState, contract):
        contract.settle(NOTHING)
    end(contract)
    assert contract.status == status
    for _, again in ENDS:
        with refuses(WrongContractState, contract):
            again(contract)
    contract.settle(NOTHING)
    with refuses(WrongContractState, contract):
        contract.settle(NOTHING)
    with refuses(AlreadySettled, contract):
        contract.report_usage(5, after(10))


def test_a_contract_expires_at_its_deadline_and_not_before() -> None:
    contract = active()
    with refuses(DeadlineNotReached, contract):
        contract.expire(NOW + 2 * HOUR - timedelta(microseconds=1))


def test_a_contract_of_which_nothing_comes_is_called_off_once() -> None:
    contract = proposed()
    contract.call_off("insufficient_funds", NOW)
    contract.call_off("insufficient_funds", NOW)
    assert names_of(contract)[1:] == ["Cancelled", "Settled"]
    held = proposed()
    held.reserve(uuid4())
    held.call_off("capacity_exhausted", NOW)
    assert facts_of(held)[-1][1]["released_grains"] == PRICE
    assert_replays(held)


def test_windows_are_judged_in_order_once_each_when_they_are_over() -> None:
    contract = active()
    with refuses(WindowNotOver, contract):
        contract.evaluate_window(0, measured(), EVIDENCE, after(599_999))
    with refuses(WindowOutOfOrder, contract):
        contract.evaluate_window(1, measured(), EVIDENCE, after(HOUR_MS))
    contract.evaluate_window(0, measured(500_000, 100_000), EVIDENCE, after(600_000))
    with refuses(WindowOutOfOrder, contract):
        contract.evaluate_window(0, measured(), EVIDENCE, after(HOUR_MS))
    fields = facts_of(contract)[-1][1]
    assert (fields["fee_grains"], fields["credit_grains"], fields["sla_rule"]) == (PRICE // 6, PRICE // 6, "sla-1")
    assert_replays(contract)


def test_the_last_window_is_as_long_as_the_contract_ran_in_it() -> None:
    contract = active()
    contract.complete(after(601_000))
    contract.evaluate_window(0, measured(), EVIDENCE, after(601_000))
    contract.evaluate_window(1, measured(1_000), EVIDENCE, after(601_000))
    with refuses(WindowOutOfOrder, contract):
        contract.evaluate_window(2, measured(0), EVIDENCE, after(HOUR_MS))


def test_credits_together_are_at_most_what_the_usage_costs() -> None:
    contract = active()
    contract.report_usage(1_000, after(600_000))
    contract.evaluate_window(0, measured(0, 600_000), EVIDENCE, after(600_000))
    due = due_of(contract)
    assert (due.usage_grains, due.credit_grains, due.charged_grains) == (10_000, 10_000, 0)


def test_only_a_breach_costs_a_penalty() -> None:
    contract = active()
    contract.report_usage(1_000, after(1_000))
    assert due_of(contract).penalty_grains == 0
    contract.breach("gone", after(1_000))
    assert due_of(contract).penalty_grains == PRICE // 10


def test_what_is_accepted_is_settled_when_it_is_judged_and_all_else_after_the_review() -> None:
    contract, cancelled = active(), active()
    contract.complete(after(600_000))
    ends = after(600_000) + REVIEW
    assert reviewed_until(contract, after(600_000)) == ends
    contract.evaluate_window(0, measured(), EVIDENCE, after(600_000))
    assert reviewed_until(contract, after(600_000)) is None
    cancelled.cancel("enough", after(600_000))
    assert reviewed_until(cancelled, ends - timedelta(microseconds=1)) == ends
    assert reviewed_until(cancelled, ends) is None


def test_a_dispute_keeps_a_contract_from_being_settled_until_it_is_decided_or_the_review_ends() -> None:
    contract = active(some_offering(sla=replace(SLA, uptime_bp=0)))
    contract.report_usage(2_000, after(2_000))
    with refuses(NotDisputed, contract):
        contract.decide_dispute(0, "none")
    contract.dispute("nothing came", after(2_000))
    contract.complete(after(3_000))
    assert reviewed_until(contract, after(3_000)) == after(3_000) + REVIEW
    assert reviewed_until(contract, after(3_000) + REVIEW) is None
    with refuses(AlreadyDisputed, contract):
        contract.dispute("again", after(3_000))
    contract.decide_dispute(500, "half a second came")
    assert reviewed_until(contract, after(3_000)) is None
    assert due_of(contract).usage_grains == 5_000
    with refuses(AlreadyDisputed, contract):
        contract.dispute("again", after(3_000))
    assert_replays(contract)


def test_a_contract_is_hidden_from_others_and_its_parties_have_their_parts() -> None:
    contract = active()
    require_party(contract, "provider", PROVIDER)
    require_party(contract, "customer", CUSTOMER)
    require_party(contract, "customer", None)
    with refuses(WrongParty, contract):
        require_party(contract, "provider", CUSTOMER)
    with refuses(ContractUnknown, contract):
        require_party(contract, "provider", uuid4())


class Life(RuleBasedStateMachine):
    """Anything is tried at any time; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = within(new_scope("test", now=NOW))
        self.scope.__enter__()
        self.now = NOW
        self.contract = active()
        self.used = 0

    def teardown(self) -> None:
        assert_replays(self.contract)
        self.scope.__exit__(None, None, None)

    def tried(self, work: Callable[[], None]) -> None:
        before, pending = copy.deepcopy(self.contract), len(self.contract.pending_events)
        try:
            work()
        except Refusal:
            assert (self.contract, len(self.contract.pending_events)) == (before, pending)

    @rule(ms=st.integers(-5, HOUR_MS + 5))
    def report(self, ms: int) -> None:
        self.tried(lambda: self.contract.report_usage(ms, self.now))

    @rule(window=st.integers(0, 3), ok=st.integers(0, 600_000))
    def judge(self, window: int, ok: int) -> None:
        times = Measured(ok, 600_000 - ok, 0, 0)
        self.tried(lambda: self.contract.evaluate_window(window, times, EVIDENCE, self.now))

    @rule(which=st.integers(0, 3))
    def end(self, which: int) -> None:
        contract, now = self.contract, self.now
        ways = [
            lambda: contract.complete(now), lambda: contract.breach("gone", now),
            lambda: contract.cancel("enough", now), lambda: contract.expire(now),
        ]  # fmt: skip
        self.tried(ways[which])

    @rule(payable=st.integers(0, HOUR_MS))
    def quarrel(self, payable: int) -> None:
        self.tried(lambda: self.contract.dispute("no", self.now))
        self.tried(lambda: self.contract.decide_dispute(payable, "so"))

    @rule()
    def settle(self) -> None:
        self.tried(lambda: self.contract.settle(NOTHING))

    @rule(minutes=st.integers(1, 30))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @invariant()
    def nobody_owes_more_than_was_agreed_and_delivered(self) -> None:
        due = due_of(self.contract)
        assert 0 <= due.credit_grains <= due.usage_grains <= self.contract.terms.agreed_price
        assert due.charged_grains == due.usage_grains - due.credit_grains >= 0
        assert due.usage_ms <= self.contract.used_ms <= HOUR_MS
        assert self.contract.used_ms >= self.used
        self.used = self.contract.used_ms

    @invariant()
    def it_ends_and_is_settled_at_most_once(self) -> None:
        names = [name.capitalize() for name in ENDED]
        assert sum(names_of(self.contract).count(name) for name in names) <= 1
        assert names_of(self.contract).count("Settled") <= 1


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_what_was_settled_is_disputed_no_more() -> None:
    contract = active()
    contract.call_off("device_gone", NOW)
    with pytest.raises(AlreadySettled):
        contract.dispute("late", NOW)
