"""Issuance: how much of the village's supply its reward epochs may spend, so that no budget is empty words."""

from uuid import UUID

from domain.kernel import Aggregate, Created, Refusal, derive, event

ISSUANCE_ID = derive("tokenomics.Issuance", "village")


class SupplyExhausted(Refusal):
    """The budgets of all epochs together are at most the village's supply."""


class EpochOver(Refusal):
    """Only the running epoch and those that come are opened."""


class Issuance(Aggregate):
    """One stream a village, appended to only when an epoch opens or closes."""

    class Opened(Created):
        supply: int

    class EpochFunded(Aggregate.Event):
        """`running` is the epoch that paid rewards at that time; those before it are over."""

        number: int
        budget: int
        running: int

    class EpochSettled(Aggregate.Event):
        number: int
        unspent: int

    @event(Opened)
    def __init__(self, supply: int) -> None:
        self.supply = supply
        self.unallotted = supply
        self.running = 0
        self.unsettled: set[int] = set()

    @staticmethod
    def create_id() -> UUID:
        return ISSUANCE_ID

    def fund(self, number: int, budget: int, running: int) -> None:
        """Allot a budget to an epoch.

        Args:
            running: the number of the epoch that pays rewards at present.

        Raises:
            EpochOver, SupplyExhausted.
        """
        running = max(running, self.running)
        if number < running:
            raise EpochOver(f"epoch {running} is running, {number} is over")
        if budget > self.unallotted:
            raise SupplyExhausted(f"{budget} grains asked, {self.unallotted} not yet allotted")
        self._funded(number=number, budget=budget, running=running)

    def settle(self, number: int, unspent: int) -> None:
        """Take back what a closing epoch did not spend."""
        assert number in self.unsettled, number
        self._settled(number=number, unspent=unspent)

    @event(EpochFunded)
    def _funded(self, number: int, budget: int, running: int) -> None:
        self.unallotted -= budget
        self.running = running
        self.unsettled.add(number)

    @event(EpochSettled)
    def _settled(self, number: int, unspent: int) -> None:
        self.unallotted += unspent
        self.unsettled.discard(number)
