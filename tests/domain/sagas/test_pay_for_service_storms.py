"""A contract is held for, captured and settled once, whatever crashes, doubles or is late."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Refusal
from domain.sagas.process import COMPENSATED, ENDED, PARKED, RETRY
from tests.sagas import DEATHS, Faults, Oracle, deliveries, faults, stormy
from tests.trading import HOUR_MS, PRICE

from .paying import FUNDS, NO_SLA, Market


def test_a_crash_before_or_after_any_write_of_a_contract_nobody_delivers_frees_everything(market: Market) -> None:
    def scenario() -> Oracle:
        contract_id = market.propose()
        return lambda: ended(market, contract_id)

    assert market.stage.crash_points(scenario, DEATHS) >= 10
    assert market.balances()["customer"] == FUNDS
    market.assert_sound()


def test_a_crash_before_or_after_any_write_of_a_capture_pays_once(stored_market: Market) -> None:
    market = stored_market
    minute = PRICE // 60

    def scenario() -> Oracle:
        contract_id = market.running(duration_ms=60_000)
        before = market.balances()
        market.now += timedelta(minutes=1)
        market.ask(market.market.report_usage, contract_id=contract_id, provider_id=None, cumulative_ms=60_000)

        def paid_once() -> None:
            ended(market, contract_id)
            assert market.balances()["customer"] == before["customer"] - minute
            assert market.balances()["provider"] == before["provider"] + minute - minute // 50

        return paid_once

    market.offering_id = market.offer(sla=NO_SLA)
    assert market.stage.crash_points(scenario, DEATHS) >= 4
    market.assert_sound()


def taken_back(market: Market, units: int = 3) -> Oracle:
    """A contract for more than is free: its hold is made and given back."""
    contract_id = market.propose(units=units)
    before = market.wallet(market.customer_id)

    def nothing_is_paid() -> None:
        if market.process(contract_id).status == PARKED:  # all time has passed while it was taken back
            market.resolve(contract_id, RETRY)
            market.stage.until_quiet()
        process = market.process(contract_id)
        assert (process.status, process.reason) in (
            (COMPENSATED, "capacity_exhausted"), (COMPENSATED, "payment_timed_out"), (COMPENSATED, "timed_out"),
        )  # fmt: skip
        assert market.names(contract_id).count("Settled") == 1
        assert market.wallet(market.customer_id).held == before.held
        market.assert_sound()

    return nothing_is_paid


def crowded(market: Market) -> None:
    """One of three units is somebody else's."""
    market.given(2 * FUNDS, market.customer_id)
    market.offering_id = market.offer(capacity=3)
    offering = market.offering()
    offering.reserve(uuid4(), 1, market.now)
    market.stage.given(offering)
    market.stage.until_quiet()


def test_a_crash_before_or_after_any_write_of_what_is_taken_back_holds_nothing(market: Market) -> None:
    crowded(market)
    assert market.stage.crash_points(lambda: taken_back(market), DEATHS) >= 8


@stormy
@given(order=deliveries)
def test_what_is_taken_back_is_so_once_whatever_order_and_number_its_facts_come_in(
    market: Market, order: list[int]
) -> None:
    crowded(market)
    oracle = taken_back(market)
    market.stage.deliver_anyhow(order)
    oracle()


def test_a_whole_history_delivered_again_records_nothing_new(market: Market) -> None:
    market.delivered()
    market.stage.adds_nothing()


moves = st.lists(
    st.one_of(
        st.tuples(st.just("work"), st.integers(1, 1_800_000)),
        st.tuples(st.just("judge"), st.integers(0, 600_000)),
        st.tuples(st.sampled_from(["complete", "cancel", "breach", "dispute", "run"]), st.just(0)),
        st.tuples(st.just("decide"), st.integers(0, HOUR_MS)),
    ),
    max_size=6,
)


def live(market: Market, contract_id: UUID, moves: list[tuple[str, int]]) -> None:
    """The parties do as they like; what is refused is none of theirs."""
    service, contract = market.market, {"contract_id": contract_id}
    by_customer, by_provider = {**contract, "customer_id": None}, {**contract, "provider_id": None}
    ways: dict[str, Callable[[int], object]] = {
        "work": lambda ms: market.work(contract_id, ms),
        "judge": lambda ms: market.judge(contract_id, ok_ms=ms, degraded_ms=600_000 - ms),
        "complete": lambda _: market.ask(service.complete_contract, **by_customer),
        "cancel": lambda _: market.ask(service.cancel_contract, **by_customer, reason="enough"),
        "breach": lambda _: market.ask(service.breach_contract, **by_provider, reason="gone"),
        "dispute": lambda _: market.ask(service.dispute_contract, **by_customer, reason="no"),
        "decide": lambda ms: market.ask(service.decide_dispute, **contract, payable_ms=ms, reason="so"),
        "run": lambda _: market.stage.run(),
    }
    for name, amount in moves:
        with suppress(Refusal):
            ways[name](amount)


def ended(market: Market, contract_id: UUID) -> None:
    """A contract has ended in time, was settled once, and everybody has what is theirs."""
    process, contract, settled = market.process(contract_id), market.contract(contract_id), market.settled(contract_id)
    assert process.status in ENDED
    assert contract.status == "settled"
    assert 0 <= settled.credit_grains <= settled.usage_grains <= contract.terms.agreed_price
    assert settled.charged_grains + settled.released_grains == contract.terms.agreed_price
    assert (market.wallet(market.customer_id).held, market.offering().free) == (0, 4)


@stormy
@given(order=deliveries, moves=moves, units=st.integers(1, 3))
def test_any_contract_ends_in_time_and_is_settled_once_whatever_order_and_number_its_facts_come_in(
    market: Market, order: list[int], moves: list[tuple[str, int]], units: int
) -> None:
    market.given(3 * FUNDS, market.customer_id)
    market.stage.until_quiet()
    contract_id = market.running(units=units)
    live(market, contract_id, moves)
    market.stage.deliver_anyhow(order)
    if market.process(contract_id).status == PARKED:  # all time has passed before anything was delivered
        market.resolve(contract_id, RETRY)
        market.stage.until_quiet()
    ended(market, contract_id)
    market.assert_sound()


@stormy
@given(broken=faults, moves=moves, units=st.integers(1, 3))
def test_any_contract_ends_in_time_and_is_settled_once_whatever_crashes(
    market: Market, broken: Faults, moves: list[tuple[str, int]], units: int
) -> None:
    market.given(3 * FUNDS, market.customer_id)
    contract_id = market.running(units=units)
    live(market, contract_id, moves)
    market.stage.survive(broken)
    ended(market, contract_id)
    market.assert_sound()
