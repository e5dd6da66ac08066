"""Allocate a burst: reserve every device, hold the price, start all contracts together; or give all of it back."""

from functools import partial
from uuid import UUID

from domain.device_registry.device import Device
from domain.kernel import Fact, derive
from domain.marketplace.burst import Burst
from domain.tokenomics.wallet import InsufficientFunds

from .deadline import Deadlines
from .pay_for_service import MARGIN, PARKED_FOR, PaymentPolicy, hold_id_of, void
from .plan import Plan, Step
from .process import Process
from .village import Village


class AllocateBurst(Plan):
    """Begins when a burst is requested; up to the start, which is one transaction, all of it is taken back in reverse.

    Each contract is then one of `pay_for_service`, which finds it held for and running.
    """

    name = "allocate_burst"
    begins_on = (Burst.Requested,)

    def __init__(self, deadlines: Deadlines, policy: PaymentPolicy | None = None) -> None:
        policy = policy or PaymentPolicy()
        self.timeout_ms = policy.timeout_ms  # type: ignore[misc]
        paying = partial(Step, retries=policy.max_retries, last_pause_ms=4_000, transient=(InsufficientFunds,))
        self.steps = (
            Step("admit", _admit, _refuse),
            Step("reserve", _reserve, _release),
            paying("hold", _hold, _void),
            Step("start", _start, pivot=True),
        )
        super().__init__(deadlines)

    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        return {"burst_id": str(fact.stream)}

    def process_of(self, fact: Fact) -> UUID:
        return burst_process_id_of(fact.stream)


def burst_process_id_of(burst_id: UUID) -> UUID:
    """The id of the process that allocates a burst."""
    return derive("sagas.Process", AllocateBurst.name, burst_id)


def _id(process: Process) -> UUID:
    return UUID(process.subject["burst_id"])


def _burst(process: Process, village: Village) -> Burst:
    return village.marketplace.get_burst(burst_id=_id(process))


def _admit(process: Process, village: Village) -> None:
    """From here on the burst is this process's to end."""


def _refuse(process: Process, village: Village) -> None:
    village.marketplace.refuse_burst(burst_id=_id(process), reason=process.reason)


def _reserve(process: Process, village: Village) -> None:
    village.marketplace.reserve_burst(burst_id=_id(process))


def _release(process: Process, village: Village) -> None:
    village.marketplace.release_burst(burst_id=_id(process))


def _hold(process: Process, village: Village) -> None:
    burst = _burst(process, village)
    village.tokenomics.hold_funds(
        owner_id=burst.customer_id,
        hold_id=process.step_id("hold"),
        grains=burst.price_grains,
        expires_at=process.due_at + PARKED_FOR,
        contract_id=burst.id,
    )


def _void(process: Process, village: Village) -> None:
    burst = _burst(process, village)
    void(village, burst.customer_id, process.step_id("hold"), burst.id)


def _start(process: Process, village: Village) -> None:
    """The one hold becomes a hold for each contract, and all contracts begin, in this one transaction."""
    burst = _burst(process, village)
    for node in burst.nodes:
        village.log.load(Device, node.device_id).require_active()
        village.tokenomics.open_wallet(owner_id=node.provider_id)
    _void(process, village)
    holds = {node.contract_id: hold_id_of(node.contract_id) for node in burst.nodes}
    for node in burst.nodes:
        village.tokenomics.hold_funds(
            owner_id=burst.customer_id,
            hold_id=holds[node.contract_id],
            grains=node.price_grains,
            expires_at=burst.request.wish.deadline_at + 2 * MARGIN + PARKED_FOR,
            contract_id=node.contract_id,
        )
    village.marketplace.start_burst(burst_id=burst.id, holds=holds)
