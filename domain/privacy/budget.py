"""A privacy budget: how much a device or a person still gives away of its privacy for one purpose.

Epsilon is counted in millionths (`epsilon_micro`), rounded up by who spends it, at one stated delta in trillionths
(`delta_pico`): amounts at different deltas cannot be added.
"""

from uuid import UUID

from domain.kernel import Aggregate, Created, NotFound, Refusal, derive, event

MAX_EPSILON_MICRO = 10**9
"""A thousand; beyond that the promise means nothing."""
MAX_DELTA_PICO = 10**10
"""One in a hundred."""
MAX_RESERVATIONS = 1_000
MAX_REMEMBERED = 1_000
"""Reservations a budget knows by their ids after they have ended, the newest."""


class PrivacyBudgetUnknown(NotFound):
    """Only a budget that was granted is spent."""


class EpsilonInvalid(Refusal):
    """An epsilon is a whole number of millionths, from 1 to a thousand in all."""


class DeltaInvalid(Refusal):
    """A delta is a whole number of trillionths, from 1 to one in a hundred."""


class DeltaDiffers(Refusal):
    """A budget has one delta for ever: epsilons at different deltas cannot be added."""


class PrivacyBudgetExceeded(Refusal):
    """What is reserved and spent together is at most what was granted."""


class PrivacyBudgetEnded(Refusal):
    """A budget that is exhausted gives nothing until more is granted."""


class BudgetReservationUnknown(NotFound):
    """A reservation ends under the id it was made with."""


class BudgetReservationReused(Refusal):
    """The id of a reservation names that reservation for ever."""

    status = 409


class BudgetReservationEnded(Refusal):
    """A reservation ends exactly once: committed or released. What was committed is never given back."""

    status = 409


class TooManyReservations(Refusal):
    """A budget has at most 1,000 open reservations."""


class BudgetReservation(Aggregate):
    """The name of a reservation: its stream opens once, so it names no other when the budget has forgotten it."""

    class Named(Created):
        budget_id: UUID
        reservation_id: UUID

    @event(Named)
    def __init__(self, budget_id: UUID, reservation_id: UUID) -> None:
        self.budget_id = budget_id

    @staticmethod
    def create_id(budget_id: UUID, reservation_id: UUID) -> UUID:
        return derive("privacy.BudgetReservation", budget_id, reservation_id)


class PrivacyBudget(Aggregate):
    """Remaining is granted less reserved and spent, and never below zero. Exhausted is what has nothing to give.

    `ended` are the newest reservations that are over; an older one is unknown to be ended, and its name is taken.
    """

    class Granted(Created):
        subject_id: UUID
        purpose: str
        epsilon_micro: int
        delta_pico: int

    class Raised(Aggregate.Event):
        epsilon_micro: int

    class Reserved(Aggregate.Event):
        reservation_id: UUID
        epsilon_micro: int

    class Committed(Aggregate.Event):
        """`epsilon_micro` was spent; `released` of the reservation can be reserved again."""

        reservation_id: UUID
        epsilon_micro: int
        released: int

    class Released(Aggregate.Event):
        reservation_id: UUID
        epsilon_micro: int

    class Exhausted(Aggregate.Event):
        """`left` was given up: nothing can be reserved any more."""

        left: int

    @event(Granted)
    def __init__(self, subject_id: UUID, purpose: str, epsilon_micro: int, delta_pico: int) -> None:
        self.subject_id = subject_id
        self.purpose = purpose
        self.delta_pico = delta_pico
        self.granted = epsilon_micro
        self.spent = 0
        self.open: dict[UUID, int] = {}
        self.ended: dict[UUID, None] = {}
        self.exhausted = False

    @staticmethod
    def create_id(subject_id: UUID, purpose: str) -> UUID:
        return derive("privacy.PrivacyBudget", subject_id, purpose)

    @classmethod
    def grant(cls, *, subject_id: UUID, purpose: str, epsilon_micro: int, delta_pico: int) -> "PrivacyBudget":
        """A first budget. Raises EpsilonInvalid, DeltaInvalid."""
        if not (type(delta_pico) is int and 1 <= delta_pico <= MAX_DELTA_PICO):
            raise DeltaInvalid(f"{delta_pico!r}")
        return cls(subject_id=subject_id, purpose=purpose, epsilon_micro=_epsilon(epsilon_micro), delta_pico=delta_pico)

    @property
    def reserved(self) -> int:
        return sum(self.open.values())

    @property
    def remaining(self) -> int:
        """What may be reserved now, in millionths."""
        return self.granted - self.reserved - self.spent

    def raise_by(self, epsilon_micro: int, delta_pico: int) -> None:
        """Grant more. Raises EpsilonInvalid, DeltaDiffers."""
        if delta_pico != self.delta_pico:
            raise DeltaDiffers(f"{delta_pico}, the budget's is {self.delta_pico}")
        _epsilon(self.granted + _epsilon(epsilon_micro))
        self._raised(epsilon_micro=epsilon_micro)

    def reserve(self, reservation_id: UUID, epsilon_micro: int) -> None:
        """Keep an amount back before anything is released.

        Raises:
            BudgetReservationReused, BudgetReservationEnded, TooManyReservations, PrivacyBudgetEnded,
            PrivacyBudgetExceeded, EpsilonInvalid.
        """
        if reservation_id in self.open:
            raise BudgetReservationReused(f"reservation {reservation_id} is open")
        if reservation_id in self.ended:
            raise BudgetReservationEnded(f"reservation {reservation_id}")
        if len(self.open) >= MAX_RESERVATIONS:
            raise TooManyReservations(f"{len(self.open)} open reservations")
        if self.exhausted:
            raise PrivacyBudgetEnded(f"budget {self.id}")
        if _epsilon(epsilon_micro) > self.remaining:
            raise PrivacyBudgetExceeded(f"{epsilon_micro} asked, {self.remaining} remain")
        self._reserved(reservation_id=reservation_id, epsilon_micro=epsilon_micro)

    def commit(self, reservation_id: UUID, epsilon_micro: int) -> None:
        """Spend of a reservation; the rest can be reserved again. What spends the last exhausts the budget.

        Raises:
            BudgetReservationUnknown, BudgetReservationEnded, PrivacyBudgetExceeded, EpsilonInvalid.
        """
        kept = self._open(reservation_id)
        if _epsilon(epsilon_micro) > kept:
            raise PrivacyBudgetExceeded(f"{epsilon_micro} spent, {kept} reserved")
        self._committed(reservation_id=reservation_id, epsilon_micro=epsilon_micro, released=kept - epsilon_micro)
        if self.spent == self.granted and not self.exhausted:
            self._exhausted(left=0)

    def release(self, reservation_id: UUID) -> None:
        """End a reservation of which nothing was spent. Raises BudgetReservationUnknown, BudgetReservationEnded."""
        self._released(reservation_id=reservation_id, epsilon_micro=self._open(reservation_id))

    def exhaust(self) -> None:
        """Give up what remains, for whatever reason; what is reserved may still be spent."""
        if not self.exhausted:
            self._exhausted(left=self.remaining)

    def _open(self, reservation_id: UUID) -> int:
        if (kept := self.open.get(reservation_id)) is not None:
            return kept
        if reservation_id in self.ended:
            raise BudgetReservationEnded(f"reservation {reservation_id}")
        raise BudgetReservationUnknown(f"reservation {reservation_id}")

    @event(Raised)
    def _raised(self, epsilon_micro: int) -> None:
        self.granted += epsilon_micro
        self.exhausted = False

    @event(Reserved)
    def _reserved(self, reservation_id: UUID, epsilon_micro: int) -> None:
        self.open[reservation_id] = epsilon_micro

    @event(Committed)
    def _committed(self, reservation_id: UUID, epsilon_micro: int, released: int) -> None:
        self.spent += epsilon_micro
        self._end(reservation_id)

    @event(Released)
    def _released(self, reservation_id: UUID, epsilon_micro: int) -> None:
        self._end(reservation_id)

    @event(Exhausted)
    def _exhausted(self, left: int) -> None:
        self.exhausted = True

    def _end(self, reservation_id: UUID) -> None:
        del self.open[reservation_id]
        if len(self.ended) >= MAX_REMEMBERED:
            del self.ended[next(iter(self.ended))]
        self.ended[reservation_id] = None


def _epsilon(epsilon_micro: int) -> int:
    if not (type(epsilon_micro) is int and 1 <= epsilon_micro <= MAX_EPSILON_MICRO):
        raise EpsilonInvalid(f"{epsilon_micro!r}")
    return epsilon_micro
