"""One payment of five durable steps (verify, hold, reserve, capture, credit), ours and the peer's own way."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID, uuid5

CUSTOMERS, PROVIDERS = 100, 20
FUNDS = 1_000_000_000
"""Grains every customer begins with."""
PRICE = 1_000
"""Grains every payment is of."""
CAPACITY = 10_000
"""Units of every provider's offering; a payment reserves one."""

_NAMESPACE = UUID(int=5)


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment from a customer to a provider, for one unit of the provider's offering."""

    payment_id: UUID
    customer_id: UUID
    provider_id: UUID

    @property
    def offering_id(self) -> UUID:
        return offering_of(self.provider_id)


def customers() -> list[UUID]:
    return [uuid5(_NAMESPACE, f"customer {number}") for number in range(CUSTOMERS)]


def providers() -> list[UUID]:
    return [uuid5(_NAMESPACE, f"provider {number}") for number in range(PROVIDERS)]


def offering_of(provider_id: UUID) -> UUID:
    return uuid5(provider_id, "offering")


def payments(count: int, seed: int) -> Iterator[Payment]:
    """The same payments for the same seed."""
    chance, payers, payees = random.Random(seed), customers(), providers()
    for number in range(count):
        payment_id = uuid5(_NAMESPACE, f"payment {seed} {number}")
        yield Payment(payment_id, chance.choice(payers), chance.choice(payees))
