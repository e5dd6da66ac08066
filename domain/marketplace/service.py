"""The marketplace service: what is sold and bought, one command a record."""

from uuid import UUID

from domain.kernel import EventLog

from .contract import Contract
from .contracts import Contracts
from .offerings import DeviceOwners


class MarketplaceService(Contracts):
    """Offerings and the contracts over them.

    Args:
        log: the village's event log.
        owner_of: the query port that says whose a device is; a process that publishes no offerings has none.
    """

    def __init__(self, log: EventLog, owner_of: DeviceOwners | None = None) -> None:
        self.log = log
        self._owner_of = owner_of

    def get_contract(self, *, contract_id: UUID) -> Contract:
        """A contract as the log has it. Raises ContractUnknown."""
        return self._contract(contract_id)
