"""A burst: the same work on several devices at once, all of them or none."""

from typing import Any, NamedTuple
from uuid import UUID

from domain.kernel import Aggregate, Created, NotFound, Refusal, Value, derive, event

from .matching import UNASKED, Wish

REQUESTED, ALLOCATED, REFUSED = "requested", "allocated", "refused"
MAX_NODES = 20


class BurstUnknown(NotFound):
    """A burst is known to its customer and operators."""


class BurstInvalid(Refusal):
    """A burst is over 1 to 20 devices."""


class BurstUnavailable(Refusal):
    """A burst is allocated on as many different devices as were asked for, or not at all."""


class BurstRequest(Value, frozen=True):
    """`nodes` devices for what each is wished; the wish's price is for all of them together."""

    nodes: int
    wish: Wish


class BurstNode(Value, frozen=True):
    """One device of a burst and the contract over it."""

    contract_id: UUID
    offering_id: UUID
    device_id: UUID
    provider_id: UUID
    price_grains: int


class BurstAllocation(NamedTuple):
    """How a burst stands, and its devices in the order of their offerings' ids."""

    burst_id: UUID
    status: str
    nodes: list[BurstNode]


class Burst(Aggregate):
    """Requested, then allocated on all its devices or refused."""

    class Requested(Created):
        class_version = 2
        burst_id: UUID
        customer_id: UUID
        request: BurstRequest
        nodes: list[BurstNode]

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """What devices have measured was not asked before."""
            state["request"]["wish"] |= UNASKED

    class Allocated(Aggregate.Event):
        closes = True

    class Refused(Aggregate.Event):
        closes = True
        reason: str

    @event(Requested)
    def __init__(self, burst_id: UUID, customer_id: UUID, request: BurstRequest, nodes: list[BurstNode]) -> None:
        self.customer_id = customer_id
        self.request = request
        self.nodes = nodes
        self.status = REQUESTED

    @staticmethod
    def create_id(burst_id: UUID) -> UUID:
        return burst_id

    @property
    def price_grains(self) -> int:
        """What all of it costs at most."""
        return sum(node.price_grains for node in self.nodes)

    @property
    def allocation(self) -> BurstAllocation:
        return BurstAllocation(self.id, self.status, self.nodes)

    def allocate(self) -> None:
        """All of its contracts have begun."""
        self._allocated()

    def refuse(self, reason: str) -> None:
        """Nothing comes of it; again changes nothing."""
        if self.status == REQUESTED:
            self._refused(reason=reason)

    @event(Allocated)
    def _allocated(self) -> None:
        self.status = ALLOCATED

    @event(Refused)
    def _refused(self, reason: str) -> None:
        self.status = REFUSED


def contract_of(burst_id: UUID, offering_id: UUID) -> UUID:
    """The id of the contract a burst makes over an offering."""
    return derive("marketplace.Contract.burst", burst_id, offering_id)
