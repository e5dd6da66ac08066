"""What the demo shows: a live table on a terminal, plain lines elsewhere."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console as Screen
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.demo_check import Outcome
from cli.demo_run import Plan, Progress, Round
from domain.kernel.tokens import format_tokens

_BARS = "▁▂▃▄▅▆▇█"
_RATE_WINDOW_S = 15.0
_ROUNDS_SHOWN = 6


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


class PlainView:
    """A line per step and per completed round, for logs."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._rate, self._printed = screen, EventRate(), 0

    def step(self, text: str) -> None:
        self._screen.print(text, highlight=False, markup=False, soft_wrap=True)

    def progress(self, seen: Progress) -> None:
        rate = self._rate.at(seen.head)
        for one in seen.completed:
            if one.number > self._printed:
                self._printed = one.number
                line = f"{_line(one)}  paid {format_tokens(seen.paid_grains)} tokens  {rate:.0f} events/s"
                self._screen.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveView:
    """A table that redraws itself on a terminal."""

    def __init__(self, screen: Screen, live: Live, plan: Plan) -> None:
        self._screen, self._live, self._plan, self._rate = screen, live, plan, EventRate()

    def step(self, text: str) -> None:
        self._screen.print(Text(text))

    def progress(self, seen: Progress) -> None:
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
    payouts = Table("device", "rounds paid", "tokens", title="Paid to devices", title_justify="left", box=None)
    for payout in outcome.payouts:
        payouts.add_row(str(payout.device_id), str(payout.claims), format_tokens(int(payout.paid_grains)))
    checks = Table("", "check", "found", title="Checks", title_justify="left", box=None)
    for check in outcome.checks:
        checks.add_row("ok" if check.ok else "FAILED", check.name, check.found, style="" if check.ok else "red")
    screen.print(payouts, checks)
    verdict = "All of it held" if outcome.ok else "Not all of it held"
    screen.print(f"{verdict}: accuracy {outcome.accuracy:.1%}, {outcome.rounds} rounds, {outcome.seconds:.0f} s")
