"""The SLA monitor judges windows from the log alone, and a contract is settled without an operator."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from domain.marketplace.sla import Measured
from domain.sagas.process import COMPLETED
from infrastructure.database import Database
from projections.marketplace import Contracts
from tests.domain.sagas.paying import StoredMarket
from tests.trading import HOUR_MS
from workers.projector import Projector
from workers.sla_monitor import MAX_GAP, SETTLED_AFTER, SlaMonitor

TEN_MINUTES = 600_000


class Watched(StoredMarket):
    """A market whose device is online, with a monitor that ticks every few seconds."""

    def __init__(self, url: str, database: Database) -> None:
        super().__init__(url, database)
        self.projector = Projector(database, [Contracts()])
        self.monitor = SlaMonitor(database, self.market, clock=lambda: self.now)
        self.monitor.tick()
        self.ask(self.registry.device_went_online, device_id=self.device_id, seen_at=self.now)

    def close(self) -> None:
        self.projector.close()
        super().close()

    def watch(self, delta: timedelta, *, away: bool = False) -> None:
        """Time passes, in which the monitor ticks unless the village is away."""
        ends = self.now + delta
        while self.now < ends:
            self.now = ends if away else min(ends, self.now + MAX_GAP / 2)
            self.projector.run_once()
            self.monitor.tick()
        self.stage.run()

    def windows(self) -> list[Measured]:
        return [
            Measured(made.ok_ms, made.degraded_ms, made.unknown_ms, made.excluded_ms)
            for fact in self.facts()
            if type(made := fact.event).__name__ == "SlaWindowEvaluated"
        ]


@pytest.fixture
def watched(database_url: str, database: Database) -> Iterator[Watched]:
    watched = Watched(database_url, database)
    yield watched
    watched.close()


def test_an_hour_that_was_delivered_is_judged_window_by_window_and_settled(watched: Watched) -> None:
    contract_id = watched.running()
    for _ in range(6):
        watched.watch(timedelta(milliseconds=TEN_MINUTES))
        used_ms = watched.contract(contract_id).used_ms + TEN_MINUTES
        watched.ask(watched.market.report_usage, contract_id=contract_id, provider_id=None, cumulative_ms=used_ms)
    watched.watch(SETTLED_AFTER + MAX_GAP)
    assert watched.windows() == [Measured(TEN_MINUTES, 0, 0, 0)] * 6
    assert watched.process(contract_id).status == COMPLETED
    assert watched.settled(contract_id).usage_ms == HOUR_MS


def test_a_device_that_left_owes_a_credit(watched: Watched) -> None:
    contract_id = watched.running()
    left_at = watched.now + timedelta(minutes=4)
    watched.watch(timedelta(minutes=6))
    watched.ask(watched.registry.device_went_offline, device_id=watched.device_id, last_seen_at=left_at)
    watched.watch(timedelta(minutes=4) + SETTLED_AFTER + MAX_GAP)
    assert watched.windows() == [Measured(240_000, 360_000, 0, 0)]
    assert watched.contract(contract_id).credit_grains == 10 * TEN_MINUTES


def test_while_the_village_was_away_nobody_failed(watched: Watched) -> None:
    watched.running()
    watched.watch(timedelta(minutes=15), away=True)
    assert watched.windows() == [Measured(0, 0, TEN_MINUTES, 0)]
