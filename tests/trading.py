"""Offerings and contracts for tests, in the states that commands lead to."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from domain.kernel.time import utc
from domain.marketplace.contract import Contract
from domain.marketplace.offering import Offering, Resources
from domain.marketplace.sla import Measured, SlaTerms
from domain.marketplace.terms import agree

NOW = utc(2026, 1, 1)
HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000
PRICE = 36_000_000
"""Grains an hour: ten a millisecond."""
PROVIDER, CUSTOMER, DEVICE = UUID(int=1), UUID(int=2), UUID(int=3)
SLA = SlaTerms(uptime_bp=9_990, p95_ms=500, max_interrupts_per_h=2, window_ms=600_000, penalty_bp=1_000)
EVIDENCE = "e" * 64


def some_offering(**changes: Any) -> Offering:
    """Four units of a device at ten grains a millisecond."""
    usual: dict[str, Any] = {
        "offering_id": uuid4(),
        "provider_id": PROVIDER,
        "device_id": DEVICE,
        "service_type": "compute_burst",
        "resources": Resources(4_096, 4, 12_000),
        "region": "eu-west",
        "capacity": 4,
        "price_grains_per_hour": PRICE,
        "sla": SLA,
        "valid_until": NOW + 24 * HOUR,
        "now": NOW,
    }
    return Offering.publish(**usual | changes)


def some_terms(offering: Offering | None = None, **changes: Any) -> Any:
    """An hour of one unit, to be delivered within two."""
    usual: dict[str, Any] = {
        "customer_id": CUSTOMER,
        "units": 1,
        "duration_ms": HOUR_MS,
        "deadline_at": NOW + 2 * HOUR,
        "max_price_grains": 10 * PRICE,
        "now": NOW,
    }
    return agree(offering or some_offering(), **usual | changes)


def proposed(offering: Offering | None = None, **changes: Any) -> Contract:
    return Contract.propose(uuid4(), some_terms(offering, **changes))


def active(offering: Offering | None = None, **changes: Any) -> Contract:
    """A contract that began at NOW."""
    contract = proposed(offering, **changes)
    contract.reserve(uuid4())
    contract.activate(NOW)
    return contract


def measured(ok_ms: int = 600_000, degraded_ms: int = 0, unknown_ms: int = 0, excluded_ms: int = 0) -> Measured:
    return Measured(ok_ms, degraded_ms, unknown_ms, excluded_ms)
