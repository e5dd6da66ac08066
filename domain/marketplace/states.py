"""The states of a contract, and what is refused in them."""

from typing import TYPE_CHECKING
from uuid import UUID

from domain.kernel import Forbidden, NotFound, Refusal

if TYPE_CHECKING:
    from .contract import Contract

PROPOSED, RESERVED, ACTIVE = "proposed", "reserved", "active"
COMPLETED, BREACHED, CANCELLED, EXPIRED = "completed", "breached", "cancelled", "expired"
HANDED_OFF, SETTLED = "handed_off", "settled"
ENDED = frozenset({COMPLETED, BREACHED, CANCELLED, EXPIRED, HANDED_OFF})


class ContractUnknown(NotFound):
    """A contract is known to its provider, its customer and operators."""


class WrongParty(Forbidden):
    """The provider delivers and reports; the customer accepts, cancels and disputes."""


class WrongContractState(Refusal):
    """A contract goes from proposed by reserved to active, then ends, and is settled once."""

    status = 409


class DeadlineTooClose(Refusal):
    """A contract starts only while all that was bought can be delivered before its deadline."""


class DeadlineNotReached(Refusal):
    """A contract expires at its deadline, not before."""


class UsageBeyondContract(Refusal):
    """Usage is reported as the ms delivered so far: zero to what was bought, and no more than have passed."""


class WindowOutOfOrder(Refusal):
    """The windows of a contract are evaluated once each, in order, and none begins after its end."""

    status = 409


class WindowNotOver(Refusal):
    """A window is evaluated when it is over."""


class AlreadyDisputed(Refusal):
    """A contract is disputed once, by its customer, before its review ends."""

    status = 409


class AlreadySettled(Refusal):
    """What was paid is final: it is disputed before."""

    status = 409


class NotDisputed(Refusal):
    """Only an open dispute is decided."""

    status = 409


def require_party(contract: "Contract", party: str, owner_id: UUID | None) -> None:
    """Pass for the `provider` or `customer` that a contract names, and for an operator (None).

    Raises:
        ContractUnknown: to anybody else. WrongParty.
    """
    parties = {"provider": contract.terms.provider_id, "customer": contract.terms.customer_id}
    if owner_id is None or owner_id == parties[party]:
        return
    if owner_id not in parties.values():
        raise ContractUnknown(f"contract {contract.id}")
    raise WrongParty(f"this is for the {party}")
