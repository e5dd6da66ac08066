"""A dealing: what two owners have sold each other, and whether that is trade or tokens going round."""

from collections.abc import Iterable
from typing import Any, Protocol
from uuid import UUID

from domain.kernel import Aggregate, Created, Value, derive, event

RULE = "wash-2"
MIN_TRADES = 4
"""Rule wash-2: of at least so many trades, what was paid, given and came round through a third owner, both ways, leaves
in the end at most a tenth of what was moved. Rule wash-1 knew of trades only."""
NET_SHARE = 10


class Flows(Value, frozen=True):
    """What else went between two owners, in grains, as known at a position of the log.

    `gave` is what one paid the other by itself, for no contract; `around` is what went to the other through one third
    owner, by trades or payments.
    """

    low_gave: int = 0
    high_gave: int = 0
    low_around: int = 0
    high_around: int = 0
    position: int = 0


class OwnerFlows(Protocol):
    """Query port: what is known of the payments between two owners, by rising id, and around through others."""

    def __call__(self, low_id: UUID, high_id: UUID) -> Flows: ...


NO_FLOWS = Flows()


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
        """What one sold the other and the other the one, in grains, and what else came back."""

        class_version = 2
        rule: str
        low_grains: int
        high_grains: int
        flows: Flows

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """Rule wash-1 looked at nothing else."""
            state["flows"] = dict.fromkeys(Flows.__struct_fields__, 0)

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

    def count(self, contract_id: UUID, provider_id: UUID, grains: int, flows: Flows = NO_FLOWS) -> None:
        """One trade more; the rule is asked before and after it, for what comes back comes late or early."""
        was_wash = is_wash(self.trades, *self._moved(flows))
        self._traded(contract_id=contract_id, provider_id=provider_id, grains=grains)
        if not self.flagged and (was_wash or is_wash(self.trades, *self._moved(flows))):
            self._flagged(rule=RULE, low_grains=self.low_grains, high_grains=self.high_grains, flows=flows)

    def _moved(self, flows: Flows) -> tuple[int, int]:
        """What went to each of the two, in grains."""
        return (
            self.low_grains + flows.high_gave + flows.high_around,
            self.high_grains + flows.low_gave + flows.low_around,
        )

    @event(Traded)
    def _traded(self, contract_id: UUID, provider_id: UUID, grains: int) -> None:
        self.trades += 1
        if provider_id == self.low_id:
            self.low_grains += grains
        else:
            self.high_grains += grains

    @event(Flagged)
    def _flagged(self, rule: str, low_grains: int, high_grains: int, flows: Flows) -> None:
        self.flagged = True


def is_wash(trades: int, to_one: int, to_other: int) -> bool:
    """Whether what went to each of two owners, in grains, leaves next to nothing with either (rule wash-2)."""
    both = min(to_one, to_other) > 0
    return trades >= MIN_TRADES and both and abs(to_one - to_other) * NET_SHARE <= to_one + to_other


def around(hops: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """What went from one owner to another through third ones, and back, in grains.

    Args:
        hops: for each third owner the net of what the one gave it, and of what it gave the other.
    """
    there = back = 0
    for first, second in hops:
        there += max(0, min(first, second))
        back += max(0, min(-first, -second))
    return there, back
