"""Hand a contract off: what was delivered stays held for, the rest of hold and work goes to the next match."""

from uuid import UUID

from domain.device_registry.device import ONLINE, Device
from domain.kernel import Conflict, Fact, Refusal, scope
from domain.marketplace.contract import Contract
from domain.marketplace.delivery import outgoing_ms
from domain.marketplace.hand_off import HandOff, NoHeir, heir_of
from domain.marketplace.matching import measures_up
from domain.marketplace.request import ServiceRequest
from domain.marketplace.terms import Terms

from .deadline import Deadlines
from .pay_for_service import expires_at, hold_id_of
from .plan import Plan, Step
from .process import Process
from .village import Village


class HandOffContract(Plan):
    """Begins when a hand-off is asked for. The move is one transaction; without an heir the contract stays as it is.

    What was delivered is then paid, and its review kept, by the process `pay_for_service` of the old contract; another
    one finds the heir held for and running.
    """

    name = "hand_off_contract"
    begins_on = (HandOff.Asked,)
    timeout_ms = 60_000

    def __init__(self, deadlines: Deadlines) -> None:
        self.steps = (Step("admit", _admit, _refuse), Step("move", _move, pivot=True))
        super().__init__(deadlines)

    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        return {"contract_id": str(fact.event.contract_id)}


def _id(process: Process) -> UUID:
    return UUID(process.subject["contract_id"])


def _admit(process: Process, village: Village) -> None:
    """From here on the hand-off is this process's to end."""


def _refuse(process: Process, village: Village) -> None:
    village.marketplace.refuse_hand_off(contract_id=_id(process), reason=process.reason)


def _move(process: Process, village: Village) -> None:
    move(village, _id(process), process.step_id("kept"))


def move(village: Village, contract_id: UUID, kept_hold_id: UUID) -> None:
    """The hold becomes `kept_hold_id`, for what the provider can be paid, and one for the rest, and the heir begins.

    Raises:
        NoHeir, WrongContractState, and what the customer's wallet refuses.
    """
    contract = village.marketplace.get_contract(contract_id=contract_id)
    contract.require_active()
    assert contract.hold_id is not None
    money, customer_id = village.tokenomics, contract.terms.customer_id
    kept, heir_id = contract.terms.due(outgoing_ms(contract, scope().now)), heir_of(contract.id)
    terms = _heir(village, contract, kept)
    money.void_hold(owner_id=customer_id, hold_id=contract.hold_id, contract_id=contract.id)
    kept_id = kept_hold_id if kept else None
    for hold_id, grains, held_for, of in (
        (kept_id, kept, contract.id, contract.terms),
        (hold_id_of(heir_id), terms.agreed_price, heir_id, terms),
    ):
        if hold_id is not None:
            money.hold_funds(
                owner_id=customer_id, hold_id=hold_id, grains=grains, expires_at=expires_at(of), contract_id=held_for
            )
    money.open_wallet(owner_id=terms.provider_id)
    village.marketplace.hand_off_contract(
        contract_id=contract.id, terms=terms, hold_id=kept_id, to_hold_id=hold_id_of(heir_id)
    )


def _heir(village: Village, contract: Contract, kept: int) -> Terms:
    """The terms of the best heir whose device serves and whose price the customer has. Raises NoHeir."""
    terms = contract.terms
    found = village.tokenomics.verify_payment_capability(
        owner_id=terms.customer_id, grains=terms.agreed_price, now=scope().now, kind="service_payment"
    )
    funds = found.available + terms.agreed_price - kept
    for heir in village.marketplace.heirs(contract_id=contract.id):
        if heir.agreed_price <= funds and _serves(village, heir):
            return heir
    raise NoHeir(f"contract {contract.id}")


def _serves(village: Village, heir: Terms) -> bool:
    """Whether a device is active, online and not at rest, and has still measured what was wished."""
    if village.marketplace.device_rests(device_id=heir.device_id):
        return False
    device = village.log.load(Device, heir.device_id)
    try:
        device.require_active()
    except Conflict:
        raise
    except Refusal:
        return False
    assert heir.request_id is not None, "heirs are of a receipt"
    wish = village.log.load(ServiceRequest, heir.request_id).wish
    measured = {} if device.evidence is None else device.evidence.quantities
    return device.presence == ONLINE and measures_up(wish, measured)
