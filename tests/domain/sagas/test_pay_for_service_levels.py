"""What a contract costs when its service levels, its provider or its customer are not content."""

from domain.sagas.process import RUNNING
from tests.trading import HOUR_MS, PRICE

from .paying import FEE, FUNDS, TEN_MINUTES, Market


def test_an_sla_credit_is_not_captured_and_weighs_on_the_reputation(market: Market) -> None:
    contract_id = market.running()
    for index in range(6):
        market.work(contract_id, TEN_MINUTES)
        market.judge(contract_id, **({"ok_ms": 580_000, "degraded_ms": 20_000} if index == 2 else {}))
    credit = PRICE // 6 // 4
    settled = market.settled(contract_id)
    assert (settled.credit_grains, settled.charged_grains) == (credit, PRICE - credit)
    assert market.balances()["customer"] == FUNDS - PRICE + credit
    assert market.reputation_bp() == 2_000
    market.assert_sound()


def test_time_nobody_knows_about_costs_the_provider_nothing(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, HOUR_MS)
    assert market.process(contract_id).status == RUNNING  # six windows are not judged
    market.judge(contract_id, ok_ms=0, unknown_ms=600_000)
    market.judge(contract_id, ok_ms=100_000, excluded_ms=500_000)
    market.stage.until_quiet()
    assert market.settled(contract_id).credit_grains == 0
    assert market.balances()["provider"] == PRICE - FEE


def test_a_breach_costs_the_provider_a_penalty_that_goes_to_the_insurance(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, HOUR_MS // 2)
    market.ask(market.market.breach_contract, contract_id=contract_id, provider_id=market.provider_id, reason="gone")
    market.stage.until_quiet()
    half = PRICE // 2
    assert market.balances() == {
        "customer": FUNDS - half, "provider": half - FEE // 2 - PRICE // 10, "fees": FEE // 2, "insurance": PRICE // 10,
    }  # fmt: skip
    assert market.reputation_bp() == 2_000
    market.assert_sound()


def test_a_penalty_takes_no_more_than_what_the_provider_would_get(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, 1_000)
    market.ask(market.market.breach_contract, contract_id=contract_id, provider_id=None, reason="found out")
    market.stage.until_quiet()
    settled = market.settled(contract_id)
    assert (settled.fee_grains, settled.penalty_grains, settled.provider_grains) == (200, 9_800, 0)
    market.assert_sound()


def test_a_dispute_is_decided_before_anything_is_paid(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, TEN_MINUTES)
    market.ask(market.market.dispute_contract, contract_id=contract_id, customer_id=market.customer_id, reason="no")
    market.ask(market.market.complete_contract, contract_id=contract_id, customer_id=market.customer_id)
    market.judge(contract_id)
    assert market.process(contract_id).status == RUNNING
    market.ask(market.market.decide_dispute, contract_id=contract_id, payable_ms=1_000, reason="a second came")
    market.stage.run()
    assert market.settled(contract_id).charged_grains == 10_000


def test_a_dispute_nobody_decides_lapses_with_the_review(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, TEN_MINUTES)
    market.ask(market.market.dispute_contract, contract_id=contract_id, customer_id=market.customer_id, reason="no")
    market.stage.until_quiet()
    assert market.settled(contract_id).charged_grains == PRICE // 6
