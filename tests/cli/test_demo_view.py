"""What the demo prints of a training."""

import io
from dataclasses import replace
from uuid import uuid4

import msgspec
import pytest
from rich.console import Console as Screen

from cli.demo_progress import Burst, Deal, Lent, Payout, Progress, Reason, Round
from cli.demo_run import Plan
from cli.demo_view import EventRate, LiveView, News, PlainView, open_view, sparkline


def progress(rounds: int, head: int = 10) -> Progress:
    done = [Round(n, "completed", 20, 20, 0.5 + n / 10, 1.0 / n, 900) for n in range(1, rounds + 1)]
    running = Round(rounds + 1, "open", 0, 7, None, None, None)
    payout = Payout(uuid4(), rounds, "150000000", "0")
    return Progress("running", [*done, running], [payout], head, settled=False)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rate = EventRate()
    assert rate.at(0, now=0.0) == 0.0
    assert rate.at(100, now=1.0) == pytest.approx(100)
    for second in range(2, 40):
        rate.at(100, now=float(second))
    assert rate.at(100, now=40.0) == 0.0


def test_without_a_terminal_each_completed_round_is_printed_once() -> None:
    out = io.StringIO()
    with open_view(Screen(file=out), Plan(20, 20, 4)) as view:
        assert isinstance(view, PlainView)
        view.step("starting")
        for rounds in (0, 1, 1, 3):
            view.progress(progress(rounds))
    lines = out.getvalue().splitlines()
    assert lines[0] == "starting"
    assert [line.split()[1] for line in lines[1:]] == ["1", "2", "3"]
    assert "accuracy  60.0%" in lines[1]
    assert "paid 1.50000000 tokens" in lines[1]


def test_on_a_terminal_the_live_view_shows_rounds_accuracy_and_payouts() -> None:
    out = io.StringIO()
    screen = Screen(file=out, force_terminal=True, width=100, height=40)
    with open_view(screen, Plan(20, 20, 4)) as view:
        assert isinstance(view, LiveView)
        view.progress(progress(3))
    text = out.getvalue()
    assert "3/20" in text
    assert "80.0%" in text
    assert "1.50000000 tokens" in text


def test_what_happens_to_a_lent_device_and_a_contract_is_told_once() -> None:
    lent = Lent(uuid4(), uuid4(), uuid4(), "paused", Reason("too_hot", "too hot"), 9, 9, 1, "0", "", None)
    paid = msgspec.structs.replace(lent, state="rewarded", verified_ms=9_000, earned_grains="25000000")
    deal = Deal(uuid4(), uuid4(), uuid4(), uuid4(), "active", "10", 0, "0", "0", "0", "0", "0", None, None)
    settled = msgspec.structs.replace(deal, state="settled", credit_grains="1", fee_grains="2", charged_grains="5")
    news = News()
    first = news.of(replace(progress(1), lent=[lent], deals=[deal]))
    assert first[0].endswith("paused: too hot")
    assert first[1].endswith("active: price 0.00000010")
    assert news.of(replace(progress(2), lent=[lent], deals=[deal])) == []
    later = news.of(replace(progress(2), lent=[paid], deals=[settled]))
    assert later[0].endswith("rewarded: 0.25000000 tokens for 9.0 s")
    assert later[1].endswith("settled: charged 0.00000005, credit 0.00000001, fee 0.00000002")


def test_a_state_that_another_follows_at_once_is_not_told() -> None:
    burst = Burst(uuid4(), "requested", "", "20", [])
    news = News()
    assert news.of(replace(progress(1), bursts=[burst])) == []
    told = news.of(replace(progress(1), bursts=[msgspec.structs.replace(burst, state="allocated")]))
    assert [line.split(maxsplit=3)[3] for line in told] == ["allocated: 0 devices, price 0.00000020"]


def test_the_curve_has_one_bar_for_each_value_and_stays_inside_its_glyphs() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([]) == ""
