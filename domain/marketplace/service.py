"""The marketplace service: what is sold, found and bought, one command a record."""

from uuid import UUID

import msgspec

from domain.kernel import EventLog, Receipt, command, scope

from .contract import Contract
from .dealing import OwnerFlows
from .hand_offs import HandOffs
from .matching import MAX_CANDIDATES, OfferingDirectory, Wish, checked
from .offerings import DeviceOwners, DeviceResources
from .request import ServiceRequest
from .serving import PresentDevices, RestingDevices


class MarketplaceService(HandOffs):
    """Offerings, the contracts over them, and the jobs under those.

    Args:
        log: the village's event log.
        owner_of: the query port that says whose a device is; a process that publishes no offerings has none.
        directory: the query port of the open offerings; a process that matches no requests has none.
        resources_of: the query port that says what a device has; without it no offering is compared with it.
        rests: the query port that says whether a device may not work now; without it none rests.
        flows: the query port of the payments between owners; without it dealings know of trades only.
        present: the query port that says whether a device is there; without it every one is.
    """

    def __init__(
        self,
        log: EventLog,
        owner_of: DeviceOwners | None = None,
        directory: OfferingDirectory | None = None,
        resources_of: DeviceResources | None = None,
        rests: RestingDevices | None = None,
        flows: OwnerFlows | None = None,
        present: PresentDevices | None = None,
    ) -> None:
        self.log = log
        self._owner_of = owner_of
        self._directory = directory
        self._resources_of = resources_of
        self._rests = rests
        self._flows = flows
        self._present = present

    @command
    def match_service_request(self, *, request_id: UUID, customer_id: UUID, wish: Wish) -> Receipt:
        """Find the offering that serves a wish best; the receipt is recorded, and answered.

        Raises:
            AlreadyExists: the request was decided. WishInvalid, AmountNotPositive, AmountTooLarge.
        """
        assert self._directory is not None, "this process was composed without a directory of offerings"
        now = scope().now
        snapshot = self._directory.open_offerings(limit=MAX_CANDIDATES)
        decided = ServiceRequest.decide(request_id, customer_id, checked(wish, now), snapshot, now)
        return self.log.record(
            decided,
            snapshot_position=decided.snapshot_position,
            known_at=decided.known_at,
            ruleset_hash=decided.ruleset_hash,
            **msgspec.to_builtins(decided.decision),
        )

    def get_contract(self, *, contract_id: UUID) -> Contract:
        """A contract as the log has it. Raises ContractUnknown."""
        return self._contract(contract_id)
