"""Issuance: how much of the village's supply its reward epochs may spend, so that no budget is empty words."""

from uuid import UUID

from domain.kernel import Aggregate, Created, Refusal, derive, event

ISSUANCE_ID = derive("tokenomics.Issuance", "village")


class SupplyExhausted(Refusal):
    """The budgets of all epochs together are at most the village's supply."""


class EpochOver(Refusal):
    """An epoch opens only after the last one that has closed."""


class Issuance(Aggregate):
    """One stream a village, appended to only when an epoch opens or closes."""

    class Opened(Created):
        supply: int

    class EpochFunded(Aggregate.Event):
        number: int
        budget: int

    class EpochSettled(Aggregate.Event):
        number: int
        unspent: int

    @event(Opened)
    def __init__(self, supply: int) -> None:
        self.supply = supply
        self.unallotted = supply
        self.settled_through = -1
        self.running: set[int] = set()

    @staticmethod
    def create_id() -> UUID:
        return ISSUANCE_ID

    def fund(self, number: int, budget: int) -> None:
        """Allot a budget to an epoch.

        Raises:
            EpochOver, SupplyExhausted.
        """
        if number <= self.settled_through:
            raise EpochOver(f"epoch {self.settled_through} has closed, {number} is over")
        if budget > self.unallotted:
            raise SupplyExhausted(f"{budget} grains asked, {self.unallotted} not yet allotted")
        self._funded(number=number, budget=budget)

    def settle(self, number: int, unspent: int) -> None:
        """Take back what a closing epoch did not spend."""
        assert number in self.running, number
        self._settled(number=number, unspent=unspent)

    @event(EpochFunded)
    def _funded(self, number: int, budget: int) -> None:
        self.unallotted -= budget
        self.running.add(number)

    @event(EpochSettled)
    def _settled(self, number: int, unspent: int) -> None:
        self.unallotted += unspent
        self.running.discard(number)
        self.settled_through = max(self.settled_through, number)
