"""How the bus is, as its relay and its consumers have written it down: for health checks and Prometheus."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg.rows import class_row

RELAY: Final = "relay:bus"
"""The relay's cursor."""

_RELAY = """
SELECT c.position, coalesce((SELECT max(position) FROM log.events), 0) - c.position AS lag_events,
       extract(epoch FROM clock_timestamp() - (SELECT recorded_at FROM log.events WHERE position = c.position + 1)
       )::float8 AS lag_s,
       coalesce(r.published, 0) AS published, coalesce(r.referred, 0) AS referred,
       coalesce(r.reconciled, 0) AS reconciled, coalesce(r.failures, 0) AS failures,
       coalesce(r.failing, false) AS failing, r.error, r.published_at
FROM engine.cursors c LEFT JOIN engine.bus_relays r USING (name) WHERE c.name = %s AND c.partition = 0
"""
_LETTERS = (
    "SELECT consumer, count(*) FROM engine.bus_dead_letters WHERE resolved_at IS NULL GROUP BY consumer ORDER BY 1"
)


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """The relay at one moment. `lag_s` is the age of the oldest fact that is not out, None when all are."""

    position: int
    lag_events: int
    lag_s: float | None
    published: int
    referred: int
    reconciled: int
    failures: int
    failing: bool
    error: str | None
    published_at: datetime | None


def relay_status(connection: psycopg.Connection[Any]) -> RelayStatus | None:
    """How the relay is; None before it has ever run."""
    with connection.cursor(row_factory=class_row(RelayStatus)) as cursor:
        return cursor.execute(_RELAY, (RELAY,)).fetchone()


def dead_letters(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Messages nobody could handle, by consumer, as far as they are not resolved."""
    return dict(connection.execute(_LETTERS).fetchall())


class BusMetrics(Collector):
    """The bus as it was read for this scrape."""

    def __init__(self, relay: RelayStatus | None, letters: dict[str, int]) -> None:
        self._relay, self._letters = relay, letters

    def collect(self) -> Iterable[Metric]:
        letters = GaugeMetricFamily("village_bus_dead_letters", "Messages given up.", labels=["consumer"])
        for consumer, number in self._letters.items():
            letters.add_metric([consumer], number)
        yield letters
        if (relay := self._relay) is None:
            return
        yield CounterMetricFamily("village_bus_published", "Facts that are on the bus.", value=relay.published)
        yield CounterMetricFamily("village_bus_referred", "Payloads left in the blob store.", value=relay.referred)
        yield CounterMetricFamily("village_bus_failures", "Times the relay had to wait.", value=relay.failures)
        yield CounterMetricFamily(
            "village_bus_reconciled", "Times the cursor was set to the stream's end.", value=relay.reconciled
        )
        yield GaugeMetricFamily("village_bus_failing", "Whether the newest try failed.", value=float(relay.failing))
        yield GaugeMetricFamily("village_bus_lag_events", "Facts that are not out yet.", value=relay.lag_events)
        yield GaugeMetricFamily("village_bus_lag_seconds", "Age of the oldest of them.", value=relay.lag_s or 0.0)
