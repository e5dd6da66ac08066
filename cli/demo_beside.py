"""What goes on beside the demo's training: devices lend themselves, and one owner buys compute."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from api.edge.principals import Tokens
from cli.console import Console
from cli.demo_harvest import Harvest
from cli.demo_market import Market
from cli.demo_progress import Progress
from cli.demo_run import SELLER_ID, Agents, Run, owner_of
from infrastructure.keys import load_keys
from infrastructure.settings import Settings

TOKEN_LIFE = timedelta(hours=1)
CUSTOMER_ID = owner_of(0)


@dataclass(frozen=True)
class Scenes:
    """Harvest and market while the training runs."""

    harvest: Harvest
    market: "Future[None]"

    def over(self, seen: Progress, *, trained: bool) -> bool:
        """Whether both have come to their end: sessions last as long as the training and the trade.

        Raises DemoFailed or VillageError.
        """
        self.harvest.watch(seen)
        if self.market.done():
            self.market.result()
            if trained and self.harvest.eventful(seen):
                self.harvest.stop(seen)
        return self.harvest.over(seen)


def token_of(settings: Settings, role: str, subject: str) -> str:
    """A token for somebody of the demo."""
    return Tokens(load_keys(settings.home)).issue(role=role, subject=subject, expires_in=TOKEN_LIFE)


@contextmanager
def scenes(run: Run, agents: Agents, settings: Settings, api_url: str) -> Iterator[Scenes]:
    """Begin both; the trade ends with this block."""
    ended = threading.Event()

    def console(role: str, subject: str) -> Console:
        return Console(api_url, token_of(settings, role, subject))

    with (
        console("operator", "demo-market") as operator,
        console("member", str(SELLER_ID)) as provider,
        console("member", str(CUSTOMER_ID)) as customer,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="market") as pool,
    ):
        market = Market(operator, provider, customer, CUSTOMER_ID, run.devices_of(SELLER_ID), agents[-1], ended)
        try:
            yield Scenes(Harvest(run.console), pool.submit(market.trade))
        finally:
            ended.set()
