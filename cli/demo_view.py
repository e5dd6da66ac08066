"""What the demo shows: a live table on a terminal, plain lines elsewhere."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol
from uuid import UUID

from rich.console import Console as Screen
from rich.console import Group, JustifyMethod
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.demo_check import Outcome
from cli.demo_harvest import lender_of
from cli.demo_progress import Burst, Deal, Lent, Progress, Round
from cli.demo_run import Plan
from domain.kernel.tokens import format_tokens

_BARS = "▁▂▃▄▅▆▇█"
_RATE_WINDOW_S = 15.0
_ROUNDS_SHOWN = 6
_PLAIN = frozenset({"starting", "clear"})
_PASSING = frozenset({"admitted", "stopping", "closed", "requested", "proposed", "reserved", "completed"})
"""States that another follows at once; only that one is told."""


class View(Protocol):
    """Where the demo reports to."""

    def step(self, text: str) -> None:
        """One step has begun."""

    def progress(self, seen: Progress) -> None:
        """The training stands here."""


class EventRate:
    """Events per second over the last seconds, from positions of the log."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=100)

    def at(self, head: int, now: float | None = None) -> float:
        """Add a position; answers the rate. `now` is in seconds of any steady clock."""
        moment = time.monotonic() if now is None else now
        self._seen.append((moment, head))
        while len(self._seen) > 2 and moment - self._seen[0][0] > _RATE_WINDOW_S:
            self._seen.popleft()
        since, start = self._seen[0]
        return (head - start) / (moment - since) if moment > since else 0.0


class News:
    """Harvest sessions, bursts and contracts whose state is another than when last asked, a line each."""

    def __init__(self) -> None:
        self._known: dict[UUID, str] = {}

    def of(self, seen: Progress) -> list[str]:
        """What is new, as it is to be printed."""
        found = [(lent.session_id, lent.state, lent_line(lent)) for lent in seen.lent]
        found += [(burst.burst_id, burst.state, burst_line(burst)) for burst in seen.bursts]
        found += [(deal.contract_id, deal.state, deal_line(deal)) for deal in seen.deals]
        lines = [line for key, state, line in found if self._known.get(key) != state and state not in _PASSING]
        self._known = {key: state for key, state, _ in found}
        return lines


class PlainView:
    """A line per step and per completed round, for logs."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._rate, self._printed, self._news = screen, EventRate(), 0, News()

    def step(self, text: str) -> None:
        self._screen.print(text, highlight=False, markup=False, soft_wrap=True)

    def progress(self, seen: Progress) -> None:
        rate = self._rate.at(seen.head)
        for one in seen.completed:
            if one.number > self._printed:
                self._printed = one.number
                line = f"{_line(one)}  paid {format_tokens(seen.paid_grains)} tokens  {rate:3.0f} events/s"
                self.step(line)
        for line in self._news.of(seen):
            self.step(line)


class LiveView:
    """A table that redraws itself on a terminal."""

    def __init__(self, screen: Screen, live: Live, plan: Plan) -> None:
        self._screen, self._live, self._plan, self._rate, self._news = screen, live, plan, EventRate(), News()

    def step(self, text: str) -> None:
        self._screen.print(Text(text))

    def progress(self, seen: Progress) -> None:
        for line in self._news.of(seen):
            self.step(line)
        done = seen.completed
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._plan.rounds, completed=len(done), width=40)
        head.add_row("round", f"{len(done)}/{self._plan.rounds}", bar)
        paid = f"{format_tokens(seen.paid_grains)} tokens paid, {format_tokens(seen.pending_grains)} pending"
        numbers = f"{paid}, {self._rate.at(seen.head):.0f} events/s"
        curve = f"accuracy {sparkline([one.accuracy or 0.0 for one in done])}"
        self._live.update(Group(head, Text(numbers), Text(curve), _rounds_table(seen.rounds)))


@contextmanager
def open_view(screen: Screen, plan: Plan) -> Iterator[View]:
    """The view that fits the screen."""
    if not screen.is_terminal:
        yield PlainView(screen)
        return
    with Live(console=screen, refresh_per_second=4) as live:
        yield LiveView(screen, live, plan)


def sparkline(values: Sequence[float]) -> str:
    """Values in 0..1 as a row of bars."""
    return "".join(_BARS[min(len(_BARS) - 1, max(0, int(value * len(_BARS))))] for value in values)


def _line(one: Round) -> str:
    accuracy = "?" if one.accuracy is None else f"{one.accuracy:.1%}"
    return f"round {one.number:>3}  accuracy {accuracy:>6}  participants {one.participants:>3}"


def lent_line(lent: Lent) -> str:
    """`harvest  heating up  paused: battery observed 56.0, the limit is 55.0 (too hot)`."""
    lender = lender_of(lent)
    name = str(lent.device_id)[:8] if lender is None else lender.name
    why = "" if lent.reason.kind in _PLAIN else lent.reason.text
    if lent.state == "rewarded":
        why = f"{format_tokens(int(lent.earned_grains))} tokens for {_seconds(lent.verified_ms)}"
    return f"harvest  {name:<11}  {lent.state}{why and ': '}{why}"


def deal_line(deal: Deal) -> str:
    """`market   contract 1b2c3d4e  settled: charged 0.00000565, credit 0.00000000, ...`."""
    amounts = {"charged": deal.charged_grains, "credit": deal.credit_grains, "fee": deal.fee_grains}
    told = amounts if deal.state == "settled" else {"price": deal.agreed_price}
    parts = ", ".join(f"{name} {format_tokens(int(grains))}" for name, grains in told.items())
    return f"market   contract {str(deal.contract_id)[:8]}  {deal.state}: {parts}"


def burst_line(burst: Burst) -> str:
    """`market   burst 1b2c3d4e     allocated: 2 devices, price 0.00003332`."""
    why = f"{len(burst.nodes)} devices, price {format_tokens(int(burst.price_grains))}"
    return f"market   burst {str(burst.burst_id)[:8]}     {burst.state}: {burst.reason or why}"


def _rounds_table(rounds: Sequence[Round]) -> Table:
    table = Table("round", "state", "accuracy", "loss", "participants", "seconds", box=None, header_style="dim")
    for one in rounds[-_ROUNDS_SHOWN:]:
        table.add_row(
            str(one.number),
            one.state,
            "" if one.accuracy is None else f"{one.accuracy:.1%}",
            "" if one.loss is None else f"{one.loss:.3f}",
            str(one.participants or one.accepted),
            "" if one.duration_ms is None else f"{one.duration_ms / 1_000:.1f}",
        )
    return table


def print_outcome(screen: Screen, outcome: Outcome) -> None:
    """The summary: what was paid to whom, and what held."""
    payouts = _table("Paid to devices", "device", rounds="right", tokens="right")
    for payout in outcome.payouts:
        payouts.add_row(str(payout.device_id), str(payout.claims), format_tokens(int(payout.paid_grains)))
    harvest = _table("Harvest", "device", "", ran="right", verified="right", tokens="right", paused="left")
    for lent in outcome.lent:
        lender = lender_of(lent)
        harvest.add_row(
            str(lent.device_id)[:8], lender.name if lender else "", _seconds(lent.run_ms), _seconds(lent.verified_ms),
            format_tokens(int(lent.earned_grains)), outcome.why_paused(lent) or "never",
        )  # fmt: skip
    amounts_of: dict[str, JustifyMethod] = dict.fromkeys(
        ("used", "price", "credit", "charged", "fee", "provider"), "right"
    )
    market = _table("Market", "contract", **amounts_of)
    for deal in outcome.deals:
        amounts = (deal.agreed_price, deal.credit_grains, deal.charged_grains, deal.fee_grains, deal.provider_grains)
        told = (format_tokens(int(grains)) for grains in amounts)
        market.add_row(str(deal.contract_id)[:8], _seconds(deal.used_ms), *told)
    checks = _table("Checks", "", "check", "found")
    for check in outcome.checks:
        checks.add_row("ok" if check.ok else "FAILED", check.name, check.found, style="" if check.ok else "red")
    screen.print(payouts, *([harvest, market] if outcome.lent else []), checks)
    verdict = "All of it held" if outcome.ok else "Not all of it held"
    screen.print(f"{verdict}: accuracy {outcome.accuracy:.1%}, {outcome.rounds} rounds, {outcome.seconds:.0f} s")


def _table(title: str, *columns: str, **justified: JustifyMethod) -> Table:
    table = Table(*columns, title=f"\n{title}", title_justify="left", box=None, pad_edge=False)
    for name, justify in justified.items():
        table.add_column(name, justify=justify)
    return table


def _seconds(ms: int) -> str:
    return f"{ms / 1_000:.1f} s"
