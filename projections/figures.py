"""Figures of the village for Prometheus, read for one scrape: supply, incidents, training, and the business."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from domain.harvest.states import ABANDONED, FLAPPING, OPEN, REJECTED, STOPPED
from domain.tokenomics.accounts import MINT
from infrastructure.operations import OTHER, BusinessMetric

from .tokenomics.queries import SUPPLY_DRIFT

REASONS: Final = (STOPPED, ABANDONED, FLAPPING, "device_suspended", OTHER)
"""Why a harvest session ends."""
BUCKETS_S: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1_800, 3_600)

_DRIFT = f"SELECT {SUPPLY_DRIFT}"
_INCIDENTS = "SELECT rule, severity, count(*) FROM read.incidents WHERE state <> 'resolved' GROUP BY rule, severity"
_ACTIVE = "SELECT count(*) FROM read.training_sessions WHERE state = 'running'"
_ROUNDS = """
SELECT CASE WHEN participants < 10 THEN '1-9' WHEN participants < 100 THEN '10-99' ELSE '100+' END AS size,
       width_bucket(duration_ms, %s::bigint[]), count(*), sum(duration_ms)::float8 / 1000
FROM read.training_rounds WHERE state = 'completed' AND duration_ms IS NOT NULL GROUP BY 1, 2
"""
_HARVEST = """
SELECT state, reason ->> 'kind', count(*), coalesce(sum(verified_ms), 0)::bigint,
       coalesce(sum(earned_grains), 0)::bigint
FROM read.harvest_sessions GROUP BY 1, 2
"""
_BUSINESS = """
SELECT 'device_registry', 'devices_enrolled', count(*) FROM read.devices UNION ALL
SELECT 'federated_learning', 'rounds_completed', count(*) FROM read.training_rounds WHERE state = 'completed' UNION ALL
SELECT 'marketplace', 'contracts_settled', count(*) FROM read.contracts WHERE state = 'settled' UNION ALL
SELECT 'tokenomics', 'grains_issued', -coalesce(sum(balance_grains), 0) FROM read.accounts WHERE account_id = %s
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """`incidents` that stand by (rule, severity); `rounds` by (participants, bucket): how many and their seconds."""

    drift: int
    incidents: list[tuple[str, str, int]]
    active_sessions: int
    rounds: dict[tuple[str, int], tuple[int, float]]
    business: list[BusinessMetric]
    harvest: "HarvestFigures"


@dataclass(frozen=True, slots=True)
class HarvestFigures:
    """Open sessions by state, ended ones by reason, and what all of them lent and earned."""

    active: dict[str, int]
    stops: dict[str, int]
    lent_s: float
    grains: int


def harvest_figures(connection: psycopg.Connection[Any]) -> HarvestFigures:
    """The figures of harvest; a reason that nobody lists is other."""
    active, stops, lent_ms, grains = dict.fromkeys(sorted(OPEN), 0), dict.fromkeys(REASONS, 0), 0, 0
    for state, reason, sessions, verified_ms, earned in connection.execute(_HARVEST):
        if state in active:
            active[state] += sessions
        elif state != REJECTED:
            stops[reason if reason in stops else OTHER] += sessions
        lent_ms, grains = lent_ms + verified_ms, grains + earned
    return HarvestFigures(active, stops, lent_ms / 1_000, grains)


def figures(connection: psycopg.Connection[Any]) -> Figures:
    """The figures now, read with the reader's rights."""
    bounds = [second * 1_000 + 1 for second in BUCKETS_S]  # a bucket holds its upper bound
    (drift,) = connection.execute(_DRIFT.encode()).fetchone() or (0,)
    (active,) = connection.execute(_ACTIVE).fetchone() or (0,)
    rounds = {(size, at): (n, seconds) for size, at, n, seconds in connection.execute(_ROUNDS, (bounds,))}
    business = [
        BusinessMetric(service, name, float(value)) for service, name, value in connection.execute(_BUSINESS, (MINT,))
    ]
    return Figures(
        drift, connection.execute(_INCIDENTS).fetchall(), active, rounds, business, harvest_figures(connection)
    )


class FigureMetrics(Collector):
    """Figures in Prometheus's terms."""

    def __init__(self, found: Figures) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        found = self._found
        yield GaugeMetricFamily(
            "village_supply_drift_grains", "What all accounts are off from the issue: always 0.", value=found.drift
        )
        incidents = GaugeMetricFamily("village_incidents", "Incidents that stand.", labels=["rule", "severity"])
        for rule, severity, number in found.incidents:
            incidents.add_metric([rule, severity], number)
        yield incidents
        yield GaugeMetricFamily(
            "fl_active_training_sessions", "Number of active training sessions", value=found.active_sessions
        )
        rounds = HistogramMetricFamily(
            "fl_training_round_duration_seconds", "Training round duration", labels=["participants_count"]
        )
        for size in sorted({size for size, _ in found.rounds}):
            counts = [found.rounds.get((size, at), (0, 0.0)) for at in range(len(BUCKETS_S) + 1)]
            bounds = [*map(str, map(float, BUCKETS_S)), "+Inf"]
            so_far = [sum(n for n, _ in counts[: at + 1]) for at in range(len(counts))]
            seconds = sum(each for _, each in counts)
            rounds.add_metric([size], list(zip(bounds, so_far, strict=True)), seconds)
        yield rounds
        active = GaugeMetricFamily("harvest_active_sessions", "Harvest sessions that are open.", labels=["state"])
        stops = CounterMetricFamily("harvest_stops", "Harvest sessions that have ended.", labels=["reason"])
        for family, numbers in ((active, found.harvest.active), (stops, found.harvest.stops)):
            for label, number in numbers.items():
                family.add_metric([label], number)
        yield from (active, stops)
        yield CounterMetricFamily("harvest_lent_seconds", "Time by duty that devices lent.", value=found.harvest.lent_s)
        yield CounterMetricFamily(
            "harvest_rewards_grains", "What harvest sessions have claimed.", value=found.harvest.grains
        )
