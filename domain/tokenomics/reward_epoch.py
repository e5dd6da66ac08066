"""A reward epoch: a span of time whose rewards share one budget."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, Refusal, derive, event
from domain.kernel.time import milliseconds
from domain.kernel.tokens import positive

UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_REMEMBERED = 1_000
"""Reservations an epoch knows by their ids, the newest. Each is recorded with its transfer, which opens only once."""


class EpochClosed(Refusal):
    """A closed epoch pays nothing more."""


class EpochBudgetExhausted(Refusal):
    """The rewards of an epoch together cost at most its budget."""


class ReservationIdReused(Refusal):
    """The id of a reservation names one block of budget for ever."""

    status = 409


class RewardEpoch(Aggregate):
    """Opens with a budget, reserves it block by block, closes."""

    class Opened(Created):
        epoch_id: UUID
        number: int
        budget: int
        starts_at: Instant
        ends_at: Instant

    class BudgetReserved(Aggregate.Event):
        reservation_id: UUID
        grains: int

    class Closed(Aggregate.Event):
        """`unspent` goes back to what later epochs may be given."""

        closes = True
        unspent: int

    @event(Opened)
    def __init__(self, epoch_id: UUID, number: int, budget: int, starts_at: datetime, ends_at: datetime) -> None:
        self.epoch_id = epoch_id
        self.number = number
        self.budget = budget
        self.starts_at = starts_at
        self.ends_at = ends_at
        self.reserved = 0
        self.reservations: list[UUID] = []
        self.closed = False

    @staticmethod
    def create_id(epoch_id: UUID) -> UUID:
        return epoch_id

    @property
    def unreserved(self) -> int:
        """Grains this epoch can still pay."""
        return 0 if self.closed else self.budget - self.reserved

    def reserve(self, reservation_id: UUID, grains: int) -> None:
        """Set a block of budget aside for one batch of rewards.

        Raises:
            EpochClosed, EpochBudgetExhausted, ReservationIdReused, AmountNotPositive.
        """
        if self.closed:
            raise EpochClosed(f"epoch {self.number}")
        if reservation_id in self.reservations:
            raise ReservationIdReused(f"reservation {reservation_id}")
        if positive(grains) > self.unreserved:
            raise EpochBudgetExhausted(f"{grains} grains asked, {self.unreserved} left in epoch {self.number}")
        self._reserved(reservation_id=reservation_id, grains=grains)

    def close(self) -> None:
        """End the epoch; closing it again changes nothing."""
        if not self.closed:
            self._closed(unspent=self.unreserved)

    @event(BudgetReserved)
    def _reserved(self, reservation_id: UUID, grains: int) -> None:
        self.reserved += grains
        self.reservations = [*self.reservations[1 - MAX_REMEMBERED :], reservation_id]

    @event(Closed)
    def _closed(self, unspent: int) -> None:
        self.closed = True


def epoch_id_of(number: int) -> UUID:
    """The id of the epoch with this number."""
    return derive("tokenomics.RewardEpoch", number)


def epoch_number(now: datetime, epoch_ms: int) -> int:
    """The number of the epoch an instant falls in: whole epochs since 1970-01-01."""
    return milliseconds(UNIX_EPOCH, now) // epoch_ms


def epoch_span(number: int, epoch_ms: int) -> tuple[datetime, datetime]:
    """When an epoch starts and ends."""
    starts_at = UNIX_EPOCH + timedelta(milliseconds=number * epoch_ms)
    return starts_at, starts_at + timedelta(milliseconds=epoch_ms)
