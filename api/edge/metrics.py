"""Numbers of this process for Prometheus, and the lag of every cursor, read when asked."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from infrastructure.metrics import REGISTRY
from infrastructure.operations import SERVICES, ServiceMetrics

REQUESTS = Counter("village_http_requests", "Answered requests.", ["method", "route", "status"], registry=REGISTRY)
REQUEST_SECONDS = Histogram("village_http_request_seconds", "Time to answer a request.", ["route"], registry=REGISTRY)
SUBSCRIPTIONS = Gauge("village_subscriptions", "Subscriptions that are open now.", registry=REGISTRY)
RESYNCS = Counter(
    "village_feed_resyncs", "Times a slow subscriber was sent back to the log from its own cursor.", registry=REGISTRY
)

_SERVICES = {name: ServiceMetrics(name) for name in SERVICES}


def service_of(path: str) -> ServiceMetrics | None:
    """The service a path `/v1/<service>/...` belongs to, None for all other paths."""
    _, version, name, *_ = f"{path}///".split("/", 3)
    return _SERVICES.get(name) if version == "v1" else None


class _Lags(Collector):
    """Head and lags as they were read for this scrape: consumer, events, seconds."""

    def __init__(self, head: int, lags: Iterable[tuple[str, int, float]]) -> None:
        self._head, self._lags = head, list(lags)

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("village_log_position", "Position of the newest event.", value=self._head)
        events = GaugeMetricFamily("village_cursor_lag_events", "Events a consumer is behind.", labels=["consumer"])
        seconds = GaugeMetricFamily(
            "village_cursor_lag_seconds", "How long a consumer's next event has waited.", labels=["consumer"]
        )
        for name, behind, waited in self._lags:
            events.add_metric([name], behind)
            seconds.add_metric([name], waited)
        yield from (events, seconds)


def exposition(head: int, lags: Iterable[tuple[str, int, float]], *others: Collector) -> bytes:
    """The metrics in Prometheus's text format: of this process, of the log, and what `others` collect."""
    scrape = CollectorRegistry()
    for collector in (_Lags(head, lags), *others):
        scrape.register(collector)
    return generate_latest(REGISTRY) + generate_latest(scrape)
