"""A dealing: what two owners have sold each other, and whether that is trade or tokens going round."""

from uuid import UUID

from domain.kernel import Aggregate, Created, derive, event

RULE = "wash-1"
MIN_TRADES = 4
"""Rule wash-1: of at least so many trades, both ways, what is left in the end is at most a tenth of what was moved."""
NET_SHARE = 10


class Dealing(Aggregate):
    """Between two owners, by rising id. Once it is flagged it stays so."""

    class Opened(Created):
        low_id: UUID
        high_id: UUID

    class Traded(Aggregate.Event):
        """A settled contract: `grains` were charged for what the provider delivered."""

        contract_id: UUID
        provider_id: UUID
        grains: int

    class Flagged(Aggregate.Event):
        """What one sold the other and the other the one, in grains."""

        rule: str
        low_grains: int
        high_grains: int

    @event(Opened)
    def __init__(self, low_id: UUID, high_id: UUID) -> None:
        self.low_id = low_id
        self.high_id = high_id
        self.trades = 0
        self.low_grains = 0
        self.high_grains = 0
        self.flagged = False

    @staticmethod
    def create_id(low_id: UUID, high_id: UUID) -> UUID:
        return derive("marketplace.Dealing", low_id, high_id)

    @classmethod
    def between(cls, one_id: UUID, other_id: UUID) -> tuple[UUID, UUID]:
        """Two owners by rising id."""
        return min(one_id, other_id), max(one_id, other_id)

    def count(self, contract_id: UUID, provider_id: UUID, grains: int) -> None:
        """One trade more; the rule is asked after it."""
        self._traded(contract_id=contract_id, provider_id=provider_id, grains=grains)
        if not self.flagged and is_wash(self.trades, self.low_grains, self.high_grains):
            self._flagged(rule=RULE, low_grains=self.low_grains, high_grains=self.high_grains)

    @event(Traded)
    def _traded(self, contract_id: UUID, provider_id: UUID, grains: int) -> None:
        self.trades += 1
        if provider_id == self.low_id:
            self.low_grains += grains
        else:
            self.high_grains += grains

    @event(Flagged)
    def _flagged(self, rule: str, low_grains: int, high_grains: int) -> None:
        self.flagged = True


def is_wash(trades: int, one_grains: int, other_grains: int) -> bool:
    """Whether trades of two owners leave next to nothing with either (rule wash-1)."""
    both = min(one_grains, other_grains) > 0
    return trades >= MIN_TRADES and both and abs(one_grains - other_grains) * NET_SHARE <= one_grains + other_grains
