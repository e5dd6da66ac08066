"""Numbers of this process for Prometheus, and the lag of every cursor, read when asked."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

REGISTRY = CollectorRegistry()
REQUESTS = Counter("village_http_requests", "Answered requests.", ["method", "route", "status"], registry=REGISTRY)
REQUEST_SECONDS = Histogram("village_http_request_seconds", "Time to answer a request.", ["route"], registry=REGISTRY)
SUBSCRIPTIONS = Gauge("village_subscriptions", "Subscriptions that are open now.", registry=REGISTRY)
RESYNCS = Counter(
    "village_feed_resyncs", "Times a slow subscriber was sent back to the log from its own cursor.", registry=REGISTRY
)


class _Positions(Collector):
    """Head and cursors as they were read for this scrape."""

    def __init__(self, head: int, cursors: Iterable[tuple[str, int]]) -> None:
        self._head, self._cursors = head, list(cursors)

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("village_log_position", "Position of the newest event.", value=self._head)
        lag = GaugeMetricFamily("village_cursor_lag_events", "Events a consumer is behind.", labels=["consumer"])
        for name, position in self._cursors:
            lag.add_metric([name], max(0, self._head - position))
        yield lag


def exposition(head: int, cursors: Iterable[tuple[str, int]]) -> bytes:
    """The metrics in Prometheus's text format."""
    scrape = CollectorRegistry()
    scrape.register(_Positions(head, cursors))
    return generate_latest(REGISTRY) + generate_latest(scrape)
