"""Burst commands: choose the devices; then, for the saga `allocate_burst`, reserve, start, or give back all of them."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from domain.kernel import Receipt, command, scope

from .burst import MAX_NODES, Burst, BurstInvalid, BurstNode, BurstRequest, BurstUnavailable, BurstUnknown, contract_of
from .contract import Contract
from .jobs import Jobs
from .matching import MAX_CANDIDATES, OfferingDirectory, checked, match
from .terms import Terms, agree


class Bursts(Jobs):
    """The part of the marketplace service that is about several devices at once."""

    _directory: OfferingDirectory | None

    @command
    def allocate_compute_burst(self, *, burst_id: UUID, customer_id: UUID, burst_request: BurstRequest) -> Receipt:
        """Choose the devices that serve a burst best; a saga then begins all contracts together, or none.

        Raises:
            AlreadyExists, BurstInvalid, BurstUnavailable, WishInvalid, PriceBeyondLimit, those of `agree`.
        """
        assert self._directory is not None, "this process was composed without a directory of offerings"
        if not 1 <= burst_request.nodes <= MAX_NODES:
            raise BurstInvalid(f"{burst_request.nodes} devices")
        now = scope().now
        each = msgspec.structs.replace(
            burst_request.wish, max_price_grains=burst_request.wish.max_price_grains // burst_request.nodes
        )
        found = match(
            checked(each, now), customer_id, now, self._directory.open_offerings(limit=MAX_CANDIDATES).candidates
        )
        nodes: dict[UUID, BurstNode] = {}
        for scored in found.candidates:
            terms = self._terms(scored.offering_id, customer_id, burst_request, now)
            contract_id = contract_of(burst_id, terms.offering_id)
            node = BurstNode(contract_id, terms.offering_id, terms.device_id, terms.provider_id, terms.agreed_price)
            nodes.setdefault(terms.device_id, node)
        if len(nodes) < burst_request.nodes:
            raise BurstUnavailable(f"{len(nodes)} of {burst_request.nodes} devices")
        chosen = sorted(list(nodes.values())[: burst_request.nodes], key=lambda node: node.offering_id)
        burst = Burst(burst_id=burst_id, customer_id=customer_id, request=burst_request, nodes=chosen)
        return self.log.record(burst, nodes=msgspec.to_builtins(chosen), price_grains=str(burst.price_grains))

    @command
    def reserve_burst(self, *, burst_id: UUID) -> Receipt:
        """Keep what a burst is over, in the order of ids. Refusals: BurstUnknown, those of `Offering.reserve`."""
        burst = self.get_burst(burst_id=burst_id)
        offerings = [self._offering(node.offering_id) for node in burst.nodes]
        for node, offering in zip(burst.nodes, offerings, strict=True):
            offering.reserve(node.contract_id, burst.request.wish.units, scope().now)
        return self.log.record(*offerings)

    @command
    def release_burst(self, *, burst_id: UUID) -> Receipt:
        """Give back what a burst has reserved; again changes nothing. Refusals: BurstUnknown."""
        burst = self.get_burst(burst_id=burst_id)
        offerings = [self._offering(node.offering_id) for node in burst.nodes]
        for node, offering in zip(burst.nodes, offerings, strict=True):
            offering.release(node.contract_id)
        return self.log.record(*offerings)

    @command
    def start_burst(self, *, burst_id: UUID, holds: Mapping[UUID, UUID]) -> Receipt:
        """Begin every contract of a burst, whose prices are held as `holds` says.

        Raises:
            BurstUnknown, those of `agree` and `Contract.activate`.
        """
        burst, now = self.get_burst(burst_id=burst_id), scope().now
        contracts = []
        for node in burst.nodes:
            terms = self._terms(node.offering_id, burst.customer_id, burst.request, now)
            contract = Contract.propose(node.contract_id, terms)
            contract.reserve(holds[node.contract_id])
            contract.activate(now)
            contracts.append(contract)
        burst.allocate()
        return self.log.record(*contracts, burst)

    @command
    def refuse_burst(self, *, burst_id: UUID, reason: str) -> Receipt:
        """Nothing comes of it. Refusals: BurstUnknown."""
        burst = self.get_burst(burst_id=burst_id)
        burst.refuse(reason)
        return self.log.record(burst)

    def get_burst(self, *, burst_id: UUID) -> Burst:
        """A burst as the log has it. Raises BurstUnknown."""
        found = self.log.find(Burst, burst_id)
        if found is None:
            raise BurstUnknown(f"burst {burst_id}")
        return found

    def _terms(self, offering_id: UUID, customer_id: UUID, request: BurstRequest, now: datetime) -> Terms:
        wish = request.wish
        return agree(
            self._offering(offering_id),
            customer_id=customer_id,
            units=wish.units,
            duration_ms=wish.duration_ms,
            deadline_at=wish.deadline_at,
            max_price_grains=wish.max_price_grains // request.nodes,
            now=now,
        )
