"""Hand-off commands: report headroom; then, for the saga `hand_off_contract`, find an heir and move the rest to it."""

from uuid import UUID

from domain.kernel import Receipt, Refusal, command, scope

from .bursts import Bursts
from .contract import Contract
from .delivery import outgoing_ms
from .hand_off import HEADROOM, HandOff, NoReceipt, heir_of
from .request import ServiceRequest
from .states import UsageBeyondContract
from .terms import Terms, agree


class HandOffs(Bursts):
    """The part of the marketplace service that moves a contract to another provider."""

    @command
    def report_headroom(
        self, *, contract_id: UUID, provider_id: UUID | None, headroom_ms: int, reason: str = HEADROOM
    ) -> Receipt:
        """How long the provider can still deliver; less than what is left asks for a hand-off. None is an operator.

        Raises:
            ContractUnknown, WrongParty, WrongContractState, UsageBeyondContract, NoReceipt, HandOffsExhausted.
        """
        contract = self._of("provider", contract_id, provider_id)
        contract.require_active()
        if headroom_ms < 0:
            raise UsageBeyondContract(f"{headroom_ms} ms of headroom")
        need_ms = contract.terms.duration_ms - contract.used_ms
        if headroom_ms >= need_ms:
            return self.log.record(need_ms=need_ms)
        if contract.terms.request_id is None:
            raise NoReceipt(f"contract {contract_id}")
        hand_off = self._hand_off(contract_id) or HandOff(contract_id=contract_id)
        hand_off.ask(reason, headroom_ms, need_ms)
        return self.log.record(hand_off, need_ms=need_ms)

    @command
    def hand_off_contract(self, *, contract_id: UUID, terms: Terms, hold_id: UUID | None, to_hold_id: UUID) -> Receipt:
        """End a contract and begin its heir, in one record, whether or not that was asked for.

        Args:
            terms: those of the heir, as `heirs` gave them.
            hold_id: what is still held for what can have been delivered so far; None where nothing can be due.

        Raises:
            ContractUnknown, WrongContractState, those of `Offering.reserve` and `Contract.activate`.
        """
        contract, now = self._contract(contract_id), scope().now
        left, taken = self._offering(contract.terms.offering_id), self._offering(terms.offering_id)
        heir = Contract.propose(heir_of(contract_id), terms)
        contract.hand_off(heir.id, hold_id, now)
        left.release(contract_id)
        taken.reserve(heir.id, terms.units, now)
        heir.reserve(to_hold_id)
        heir.activate(now)
        hand_off = self._hand_off(contract_id) or HandOff(contract_id=contract_id)
        hand_off.finish(heir.id)
        return self.log.record(contract, left, taken, heir, hand_off)

    @command
    def refuse_hand_off(self, *, contract_id: UUID, reason: str) -> Receipt:
        """Nobody takes it; again changes nothing."""
        hand_off = self._hand_off(contract_id)
        if hand_off is None:
            return self.log.record()
        hand_off.refuse(reason)
        return self.log.record(hand_off)

    def heirs(self, *, contract_id: UUID) -> list[Terms]:
        """The terms for the rest of a contract by those ranked below it in its receipt, best first; the price of an
        hour is at most what the customer wished. Raises ContractUnknown.
        """
        old = self._contract(contract_id)
        receipt = None if old.terms.request_id is None else self.log.find(ServiceRequest, old.terms.request_id)
        if receipt is None:
            return []
        ranked, wish = [one.offering_id for one in receipt.decision.candidates], receipt.wish
        rest_ms = old.terms.duration_ms - outgoing_ms(old, scope().now)
        if rest_ms <= 0:
            return []
        most = wish.max_price_grains * old.terms.units * rest_ms // (wish.units * wish.duration_ms)
        found: list[Terms] = []
        for offering_id in ranked[ranked.index(old.terms.offering_id) + 1 :]:
            offering = self._offering(offering_id)
            if offering.device_id == old.terms.device_id or offering.free < old.terms.units:
                continue
            try:
                terms = agree(
                    offering, customer_id=old.terms.customer_id, units=old.terms.units, duration_ms=rest_ms,
                    deadline_at=old.terms.deadline_at, max_price_grains=most, now=scope().now,
                    request_id=old.terms.request_id,
                )  # fmt: skip
            except Refusal:
                continue
            found.append(terms)
        return found

    def _hand_off(self, contract_id: UUID) -> HandOff | None:
        return self.log.find(HandOff, HandOff.create_id(contract_id))
