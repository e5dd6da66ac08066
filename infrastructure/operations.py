"""What services do, counted in one process: operations and their times, errors, and figures of the business.

Labels are bounded: a metric keeps at most MAX_LABELS sets of them, and all further ones are `other`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from .metrics import REGISTRY

MAX_LABELS: Final = 256
OTHER: Final = "other"

SERVICES: Final = (
    "communication",
    "device_registry",
    "federated_learning",
    "harvest",
    "marketplace",
    "monitoring",
    "privacy",
    "sagas",
    "tokenomics",
)

_OPERATIONS = Histogram(
    "village_operation_duration_seconds", "Time an operation took.", ["service", "operation"], registry=REGISTRY
)
_ERRORS = Counter(
    "village_operation_errors",
    "Operations that failed, by class.",
    ["service", "operation", "error"],
    registry=REGISTRY,
)
_BUSINESS = Gauge("village_business", "Figures of the business.", ["service", "name"], registry=REGISTRY)
SELECTION_SECONDS = Histogram(
    "fl_participant_selection_seconds", "Time to select the participants of a round.", registry=REGISTRY
)
_kept: dict[str, set[tuple[str, ...]]] = {}


@dataclass(frozen=True, slots=True)
class BusinessMetric:
    """A figure of the business as it is now, such as contracts settled."""

    service: str
    name: str
    value: float


def track_operation(service: str, operation: str, duration: float) -> None:
    """Count an operation and its duration in seconds."""
    _OPERATIONS.labels(*_bounded("operations", service, operation)).observe(duration)


def record_error(service: str, operation: str, error: str) -> None:
    """Count a failure; `error` is its class, never a message."""
    _ERRORS.labels(*_bounded("errors", service, operation, error)).inc()


def record_business_metric(metric: BusinessMetric) -> None:
    """Keep a figure of the business."""
    _BUSINESS.labels(*_bounded("business", metric.service, metric.name)).set(metric.value)


@contextmanager
def tracked(service: str, operation: str) -> Iterator[None]:
    """Track what is done inside, and an exception that leaves it."""
    started = time.perf_counter()
    try:
        yield
    except Exception as error:
        record_error(service, operation, type(error).__name__)
        raise
    finally:
        track_operation(service, operation, time.perf_counter() - started)


def _bounded(metric: str, *labels: str) -> tuple[str, ...]:
    kept = _kept.setdefault(metric, set())
    if labels in kept or len(kept) < MAX_LABELS:
        kept.add(labels)
        return labels
    return (OTHER,) * len(labels)


class ServiceMetrics:
    """Requests of one service: `<service>_requests_total`, `..._request_duration_seconds`, `..._active_connections`."""

    def __init__(self, service: str) -> None:
        labels = ["method", "endpoint", "status"]
        self._seconds = Histogram(
            f"{service}_request_duration_seconds", "Request duration in seconds", labels, registry=REGISTRY
        )
        self._requests = Counter(f"{service}_requests", "Total requests", labels, registry=REGISTRY)
        self.active = Gauge(f"{service}_active_connections", "Requests that are being answered.", registry=REGISTRY)

    def record_request(self, method: str, endpoint: str, duration: float, status: str) -> None:
        """Count an answered request; `endpoint` is a route's template, so that there are few."""
        self._seconds.labels(method, endpoint, status).observe(duration)
        self._requests.labels(method, endpoint, status).inc()
