"""The terms of a contract: what is bought, for how long, at which price; and what is due for a part of it."""

from datetime import datetime, timedelta
from uuid import UUID

from domain.kernel import Forbidden, Refusal, Value
from domain.kernel.time import milliseconds
from domain.kernel.tokens import positive

from .offering import Offering
from .sla import SlaTerms

MS_PER_HOUR = 3_600_000
MAX_TERM = timedelta(days=366)
MAX_WINDOWS = 1_000
REVIEW_MS = 900_000
"""How long after its end a contract may be disputed and its last windows evaluated."""


class SelfDealing(Forbidden):
    """Provider and customer of a contract are two."""


class TermInvalid(Refusal):
    """A contract buys at least 1 ms, and all of it fits before its deadline, within 366 days and 1,000 windows."""


class PriceBeyondLimit(Refusal):
    """A contract costs at most what its customer has said it may."""


class Terms(Value, frozen=True):
    """Taken from the offering when the contract is proposed, and the same ever after.

    `agreed_price` in grains buys `duration_ms` of `units`, to be delivered by `deadline_at`.
    """

    offering_id: UUID
    device_id: UUID
    service_type: str
    provider_id: UUID
    customer_id: UUID
    units: int
    duration_ms: int
    deadline_at: datetime
    price_grains_per_hour: int
    agreed_price: int
    sla: SlaTerms
    review_ms: int = REVIEW_MS
    request_id: UUID | None = None

    def due(self, ms: int) -> int:
        """What so much of the service costs, in grains, rounded down: a share of the agreed price."""
        return self.agreed_price * min(ms, self.duration_ms) // self.duration_ms


def agree(
    offering: Offering,
    *,
    customer_id: UUID,
    units: int,
    duration_ms: int,
    deadline_at: datetime,
    max_price_grains: int,
    now: datetime,
    request_id: UUID | None = None,
) -> Terms:
    """The terms an offering gives a customer.

    Raises:
        SelfDealing, OfferingWithdrawn, UnitsInvalid, TermInvalid, PriceBeyondLimit, AmountNotPositive, AmountTooLarge.
    """
    if customer_id == offering.provider_id:
        raise SelfDealing(f"owner {customer_id}")
    offering.check_sold(units, now)
    term_ms = milliseconds(now, deadline_at)
    if not 1 <= duration_ms <= term_ms or deadline_at > now + MAX_TERM:
        raise TermInvalid(f"{duration_ms} ms by {deadline_at.isoformat()}")
    if term_ms > MAX_WINDOWS * offering.sla.window_ms:
        raise TermInvalid(f"more than {MAX_WINDOWS} windows of {offering.sla.window_ms} ms")
    price = positive(offering.price_grains_per_hour * units * duration_ms // MS_PER_HOUR)
    if price > max_price_grains:
        raise PriceBeyondLimit(f"{price} grains, at most {max_price_grains}")
    return Terms(
        offering_id=offering.id,
        device_id=offering.device_id,
        service_type=offering.service_type,
        provider_id=offering.provider_id,
        customer_id=customer_id,
        units=units,
        duration_ms=duration_ms,
        deadline_at=deadline_at,
        price_grains_per_hour=offering.price_grains_per_hour,
        agreed_price=price,
        sla=offering.sla,
        request_id=request_id,
    )
