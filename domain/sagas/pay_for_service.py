"""Pay for a service: verify, hold, reserve, start, wait for the work, capture what it cost, settle."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from domain.device_registry.device import Device
from domain.kernel import Conflict, Fact, Refusal, derive, scope
from domain.marketplace.contract import Contract
from domain.marketplace.settlement import Paid, due_of, held_of, reviewed_until
from domain.marketplace.states import ACTIVE, BREACHED
from domain.marketplace.terms import Terms
from domain.tokenomics.accounts import FEES, INSURANCE
from domain.tokenomics.payments import capture_id_of
from domain.tokenomics.pricing import BASIS
from domain.tokenomics.transfer import Transfer
from domain.tokenomics.wallet import HoldAlreadyEnded, HoldUnknown, InsufficientFunds

from .deadline import Deadlines
from .plan import Plan, Step
from .process import Process
from .village import Village

SERVICE = "marketplace"
MARGIN = timedelta(hours=1)
"""Between the end of a contract's review and the deadline of its process."""
FULL_WEIGHT_GRAINS = 10_000_000
"""A tenth of a token: what has to be paid for evidence of full weight."""
PARKED_FOR = timedelta(days=7)
"""How long the funds of a process that is parked stay held."""


class PaymentTimedOut(Refusal):
    """The price of a contract is held within the payment timeout after its proposal, or not at all."""


@dataclass(frozen=True, slots=True)
class PaymentPolicy:
    """How long a payment may take to begin, and how often one that lacks funds is tried again, after 1, 2 and 4 s."""

    timeout_ms: int = 30_000
    max_retries: int = 3


class PayForService(Plan):
    """Begins when a contract is proposed. What fails before the work begins is taken back, and the hold voided.

    Once it has begun, the process waits for its end, and parks where it cannot go on: no clock undoes anybody's work.
    """

    name = "pay_for_service"
    begins_on = (Contract.ServiceContractCreated,)
    wakes_on = (
        Contract.Completed,
        Contract.Breached,
        Contract.Cancelled,
        Contract.HandedOff,
        Contract.SlaWindowEvaluated,
        Contract.DisputeDecided,
    )

    def __init__(self, deadlines: Deadlines, policy: PaymentPolicy | None = None) -> None:
        policy = policy or PaymentPolicy()
        paying = partial(Step, retries=policy.max_retries, last_pause_ms=4_000, transient=(InsufficientFunds,))
        self._timeout = timedelta(milliseconds=policy.timeout_ms)
        self.steps = (
            Step("admit", _admit, _call_off),
            paying("verify", self._verify),
            paying("hold", self._hold, _void),
            Step("reserve", _reserve, _release),
            Step("start", _start),
            Step("deliver", _deliver, awaits=_delivered_by, parks=True),
            Step("capture", _capture, awaits=_reviewed_by, parks=True, pivot=True),
            Step("settle", _settle),
        )
        super().__init__(deadlines)

    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        return {"contract_id": str(fact.stream), "proposed_at": fact.recorded_at.isoformat()}

    def process_of(self, fact: Fact) -> UUID:
        return process_id_of(fact.stream)

    def due_at(self, fact: Fact) -> datetime:
        proposed: Contract.ServiceContractCreated = fact.event
        return proposed.deadline_at + timedelta(milliseconds=proposed.review_ms) + MARGIN

    def _verify(self, process: Process, village: Village) -> None:
        """The customer can pay, in time; the provider has a wallet to be paid into."""
        contract = _contract(process, village)
        now, terms = scope().now, contract.terms
        if contract.hold_id is not None:
            return  # a burst holds for it
        self._check_in_time(process, now)
        village.tokenomics.open_wallet(owner_id=terms.provider_id)
        found = village.tokenomics.verify_payment_capability(
            owner_id=terms.customer_id, grains=terms.agreed_price, now=now, kind="service_payment"
        )
        if not found.capable:
            raise InsufficientFunds(f"{terms.agreed_price} grains asked, {found.available} available")

    def _hold(self, process: Process, village: Village) -> None:
        contract = _contract(process, village)
        if contract.hold_id is not None:
            return
        self._check_in_time(process, scope().now)
        terms, hold_id = contract.terms, process.step_id("hold")
        village.tokenomics.hold_funds(
            owner_id=terms.customer_id,
            hold_id=hold_id,
            grains=terms.agreed_price,
            expires_at=process.due_at + PARKED_FOR,
            contract_id=_id(process),
        )
        village.marketplace.reserve_contract(contract_id=_id(process), hold_id=hold_id)

    def _check_in_time(self, process: Process, now: datetime) -> None:
        if now > datetime.fromisoformat(process.subject["proposed_at"]) + self._timeout:
            raise PaymentTimedOut(f"{self._timeout} after the proposal")


def process_id_of(contract_id: UUID) -> UUID:
    """The id of the process that pays for a contract."""
    return derive("sagas.Process", PayForService.name, contract_id)


def hold_id_of(contract_id: UUID) -> UUID:
    """The id of the hold for a contract."""
    return derive("sagas.Process.step", process_id_of(contract_id), "hold")


def expires_at(terms: Terms) -> datetime:
    """Until when what is held for a contract stays held, at the latest."""
    return terms.deadline_at + timedelta(milliseconds=terms.review_ms) + MARGIN + PARKED_FOR


def _held(contract: Contract) -> UUID:
    assert contract.hold_id is not None, "what is charged was held"
    return contract.hold_id


def _contract(process: Process, village: Village) -> Contract:
    return village.marketplace.get_contract(contract_id=_id(process))


def _id(process: Process) -> UUID:
    return UUID(process.subject["contract_id"])


def _admit(process: Process, village: Village) -> None:
    """From here on the contract is this process's to end."""


def _call_off(process: Process, village: Village) -> None:
    village.marketplace.cancel_jobs(contract_id=_id(process), reason="contract_ended")
    village.marketplace.call_off_contract(contract_id=_id(process), reason=process.reason)


def _void(process: Process, village: Village) -> None:
    contract = _contract(process, village)
    if contract.hold_id is None:
        return  # nothing was delivered before it was handed off
    void(village, contract.terms.customer_id, contract.hold_id, contract.id)


def void(village: Village, owner_id: UUID, hold_id: UUID, contract_id: UUID) -> None:
    """End a hold for a contract, unless it has expired: then what was held is the customer's again."""
    try:
        village.tokenomics.void_hold(owner_id=owner_id, hold_id=hold_id, contract_id=contract_id)
    except (HoldAlreadyEnded, HoldUnknown):  # so long ago that the wallet has forgotten it
        return


def _reserve(process: Process, village: Village) -> None:
    village.marketplace.reserve_capacity(contract_id=_id(process))


def _release(process: Process, village: Village) -> None:
    village.marketplace.release_capacity(contract_id=_id(process))


def _start(process: Process, village: Village) -> None:
    contract = _contract(process, village)
    if contract.started_at is not None:
        return  # a burst has started it
    village.log.load(Device, contract.terms.device_id).require_active()
    village.marketplace.activate_contract(contract_id=_id(process))


def _delivered_by(process: Process, village: Village) -> datetime | None:
    """A contract that runs may run until its deadline."""
    contract = _contract(process, village)
    deadline_at = contract.terms.deadline_at
    return deadline_at if contract.status == ACTIVE and scope().now < deadline_at else None


def _deliver(process: Process, village: Village) -> None:
    if _contract(process, village).status == ACTIVE:
        village.marketplace.expire_contract(contract_id=_id(process))
    village.marketplace.cancel_jobs(contract_id=_id(process), reason="contract_ended")
    village.marketplace.release_capacity(contract_id=_id(process))


def _reviewed_by(process: Process, village: Village) -> datetime | None:
    return reviewed_until(_contract(process, village), scope().now)


def _capture(process: Process, village: Village) -> None:
    """One transfer: the customer pays the usage less the credit; provider, fee and insurance share it."""
    contract = _contract(process, village)
    due, terms = due_of(contract), contract.terms
    if due.charged_grains == 0:
        _void(process, village)
        return
    village.tokenomics.capture_hold(
        owner_id=terms.customer_id,
        hold_id=_held(contract),
        to_owner_id=terms.provider_id,
        grains=due.charged_grains,
        kind="service_payment",
        penalty_grains=due.penalty_grains,
        contract_id=contract.id,
    )


def _settle(process: Process, village: Village) -> None:
    """The contract is told what was paid, to the grain, and the device gets what it deserves of reputation."""
    contract = _contract(process, village)
    village.marketplace.settle_contract(contract_id=contract.id, paid=_paid(process, village, contract))
    _testify(process, village, contract)


def _paid(process: Process, village: Village, contract: Contract) -> Paid:
    charged, held = due_of(contract).charged_grains, held_of(contract)
    if charged == 0:
        return Paid(None, 0, 0, 0, 0, held)
    transfer = village.log.load(Transfer, capture_id_of(contract.terms.customer_id, _held(contract)))
    legs = {leg.account: leg.grains for leg in transfer.legs}
    fee, penalty = legs.get(FEES, 0), legs.get(INSURANCE, 0)
    return Paid(transfer.id, charged, fee, penalty, charged - fee - penalty, held - charged)


def _weight_bp(village: Village, contract: Contract, charged_grains: int) -> int:
    """What good evidence weighs: what was paid, less with every trade of the same two owners; wash trades nothing."""
    if not charged_grains:
        return 0
    traded = village.marketplace.count_trade(contract_id=contract.id, grains=charged_grains).extra
    return 0 if traded["flagged"] else min(BASIS, charged_grains * BASIS // FULL_WEIGHT_GRAINS) // traded["trades"]


def _testify(process: Process, village: Village, contract: Contract) -> None:
    """Evidence for a device that kept its promises, against one that did not; none where nothing was delivered."""
    due = due_of(contract)
    good = contract.status != BREACHED and due.credit_grains == 0
    weight_bp = _weight_bp(village, contract, due.charged_grains)
    if good and not weight_bp:
        return
    cause = scope().causation_id
    assert cause is not None
    try:
        village.device_registry.update_reputation(
            device_id=contract.terms.device_id,
            service=SERVICE,
            good=good,
            weight_bp=weight_bp if good else BASIS,
            cause_event_id=cause,
        )
    except Conflict:
        raise
    except Refusal:
        return  # a device that has left the registry has no reputation to keep
