"""Contract commands: propose, reserve and start, report and judge, end, dispute and settle."""

from datetime import datetime
from uuid import UUID

from domain.kernel import Receipt, command, scope

from .contract import Contract
from .dealing import NO_FLOWS, Dealing, OwnerFlows
from .hand_off import NotOfReceipt
from .offerings import Offerings
from .request import ServiceRequest
from .serving import Serving
from .settlement import Paid
from .sla import Measured
from .states import require_party
from .terms import agree


class Contracts(Offerings, Serving):
    """The part of the marketplace service that is about contracts; its money is moved by the saga `pay_for_service`.

    Where a command names a provider or a customer, None stands for an operator.
    """

    _flows: OwnerFlows | None

    @command
    def propose_contract(
        self,
        *,
        contract_id: UUID,
        offering_id: UUID,
        customer_id: UUID,
        units: int,
        duration_ms: int,
        deadline_at: datetime,
        max_price_grains: int,
        request_id: UUID | None = None,
    ) -> Receipt:
        """Buy time of an offering. With the receipt of a request it may be handed off to those ranked below.

        Raises:
            OfferingUnknown, AlreadyExists, NotOfReceipt, DeviceOffline, DeviceRests, those of `agree`.
        """
        if request_id is not None:
            self._check_receipt(request_id, customer_id, offering_id)
        terms = agree(
            self._offering(offering_id),
            customer_id=customer_id,
            units=units,
            duration_ms=duration_ms,
            deadline_at=deadline_at,
            max_price_grains=max_price_grains,
            now=scope().now,
            request_id=request_id,
        )
        self._require_serving(terms.device_id)
        return self.log.record(Contract.propose(contract_id, terms), agreed_price=str(terms.agreed_price))

    @command
    def reserve_contract(self, *, contract_id: UUID, hold_id: UUID) -> Receipt:
        """The agreed price is held. Refusals: ContractUnknown, WrongContractState."""
        contract = self._contract(contract_id)
        contract.reserve(hold_id)
        return self.log.record(contract)

    @command
    def activate_contract(self, *, contract_id: UUID) -> Receipt:
        """The service begins. Refusals: ContractUnknown, those of `Contract.activate`."""
        contract = self._contract(contract_id)
        contract.activate(scope().now)
        return self.log.record(contract)

    @command
    def report_usage(self, *, contract_id: UUID, provider_id: UUID | None, cumulative_ms: int) -> Receipt:
        """Say what has been delivered. Refusals: ContractUnknown, WrongParty, those of `Contract.report_usage`."""
        contract = self._of("provider", contract_id, provider_id)
        contract.report_usage(cumulative_ms, scope().now)
        return self.log.record(contract, used_ms=contract.used_ms)

    @command
    def evaluate_sla_window(self, *, contract_id: UUID, window: int, measured: Measured, evidence_hash: str) -> Receipt:
        """Judge the next window of a contract. Refusals: ContractUnknown, those of `Contract.evaluate_window`."""
        contract = self._contract(contract_id)
        contract.evaluate_window(window, measured, evidence_hash, scope().now)
        return self.log.record(contract, credit_grains=str(contract.credit_grains))

    @command
    def complete_contract(self, *, contract_id: UUID, customer_id: UUID | None) -> Receipt:
        """Accept what was delivered as all of it. Refusals: ContractUnknown, WrongParty, WrongContractState."""
        contract = self._of("customer", contract_id, customer_id)
        contract.complete(scope().now)
        return self.log.record(contract)

    @command
    def cancel_contract(self, *, contract_id: UUID, customer_id: UUID | None, reason: str) -> Receipt:
        """Want no more of it. Refusals: ContractUnknown, WrongParty, WrongContractState."""
        contract = self._of("customer", contract_id, customer_id)
        contract.cancel(reason, scope().now)
        return self.log.record(contract)

    @command
    def breach_contract(self, *, contract_id: UUID, provider_id: UUID | None, reason: str) -> Receipt:
        """Give a contract up as its provider. Refusals: ContractUnknown, WrongParty, WrongContractState."""
        contract = self._of("provider", contract_id, provider_id)
        contract.breach(reason, scope().now)
        return self.log.record(contract)

    @command
    def expire_contract(self, *, contract_id: UUID) -> Receipt:
        """The deadline has come. Refusals: ContractUnknown, WrongContractState, DeadlineNotReached."""
        contract = self._contract(contract_id)
        contract.expire(scope().now)
        return self.log.record(contract)

    @command
    def dispute_contract(self, *, contract_id: UUID, customer_id: UUID | None, reason: str) -> Receipt:
        """Disagree with what was reported. Refusals: ContractUnknown, WrongParty, those of `Contract.dispute`."""
        contract = self._of("customer", contract_id, customer_id)
        contract.dispute(reason, scope().now)
        return self.log.record(contract)

    @command
    def decide_dispute(self, *, contract_id: UUID, payable_ms: int, reason: str) -> Receipt:
        """Say how much of the usage is paid. Refusals: ContractUnknown, those of `Contract.decide_dispute`."""
        contract = self._contract(contract_id)
        contract.decide_dispute(payable_ms, reason)
        return self.log.record(contract)

    @command
    def settle_contract(self, *, contract_id: UUID, paid: Paid) -> Receipt:
        """What is due has been paid. Refusals: ContractUnknown, WrongContractState."""
        contract = self._contract(contract_id)
        contract.settle(paid)
        return self.log.record(contract)

    @command
    def call_off_contract(self, *, contract_id: UUID, reason: str) -> Receipt:
        """Nothing comes of it. Refusals: ContractUnknown."""
        contract = self._contract(contract_id)
        contract.call_off(reason, scope().now)
        return self.log.record(contract)

    @command
    def count_trade(self, *, contract_id: UUID, grains: int) -> Receipt:
        """A settled contract between two owners; answers how many they had, and whether those are flagged as wash."""
        terms = self._contract(contract_id).terms
        low_id, high_id = Dealing.between(terms.provider_id, terms.customer_id)
        known = self.log.find(Dealing, Dealing.create_id(low_id, high_id))
        dealing = known or Dealing(low_id=low_id, high_id=high_id)
        flows = NO_FLOWS if self._flows is None else self._flows(low_id, high_id)
        dealing.count(contract_id, terms.provider_id, grains, flows)
        return self.log.record(dealing, trades=dealing.trades, flagged=dealing.flagged)

    def _check_receipt(self, request_id: UUID, customer_id: UUID, offering_id: UUID) -> None:
        receipt = self.log.find(ServiceRequest, request_id)
        ranked = [] if receipt is None else [one.offering_id for one in receipt.decision.candidates]
        if receipt is None or receipt.customer_id != customer_id or offering_id not in ranked:
            raise NotOfReceipt(f"offering {offering_id}, request {request_id}")

    def _of(self, party: str, contract_id: UUID, owner_id: UUID | None) -> Contract:
        contract = self._contract(contract_id)
        require_party(contract, party, owner_id)
        return contract
