"""A contract: a customer buys time of an offering; what was delivered is what is paid."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from domain.kernel import Aggregate, Created, Instant, event

from . import states
from .contract_facts import ContractFacts
from .delivery import check_usage, outgoing_ms, window_ms
from .settlement import NOTHING, Paid, check_open_to_dispute, due_of, held_of
from .sla import RULE, Measured, SlaTerms, checked_evidence, checked_measures, credit
from .states import (
    ACTIVE,
    BREACHED,
    CANCELLED,
    COMPLETED,
    ENDED,
    EXPIRED,
    HANDED_OFF,
    PROPOSED,
    RESERVED,
    SETTLED,
)
from .terms import Terms


class Contract(ContractFacts, Aggregate):
    """Proposed -> reserved -> active -> completed, breached, cancelled, expired or handed off -> settled."""

    class ServiceContractCreated(Created):
        """Proposed by the customer. `agreed_price` in grains is the most it may cost, `request_id` its receipt."""

        class_version = 2
        contract_id: UUID
        service_type: str
        provider_id: UUID
        customer_id: UUID
        agreed_price: int
        sla_terms: SlaTerms
        offering_id: UUID
        device_id: UUID
        units: int
        duration_ms: int
        price_grains_per_hour: int
        deadline_at: Instant
        review_ms: int
        sla_rule: str
        request_id: UUID | None

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["request_id"] = None

    @event(ServiceContractCreated)
    def __init__(
        self,
        contract_id: UUID,
        service_type: str,
        provider_id: UUID,
        customer_id: UUID,
        agreed_price: int,
        sla_terms: SlaTerms,
        offering_id: UUID,
        device_id: UUID,
        units: int,
        duration_ms: int,
        price_grains_per_hour: int,
        deadline_at: datetime,
        review_ms: int,
        sla_rule: str,
        request_id: UUID | None,
    ) -> None:
        self.terms = Terms(
            offering_id, device_id, service_type, provider_id, customer_id, units, duration_ms, deadline_at,
            price_grains_per_hour, agreed_price, sla_terms, review_ms, request_id,
        )  # fmt: skip
        self.status = PROPOSED
        self.hold_id: UUID | None = None
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.used_ms = 0
        self.windows = 0
        self.credit_grains = 0
        self.disputed = False
        self.payable_ms: int | None = None
        self.kept_ms: int | None = None

    @staticmethod
    def create_id(contract_id: UUID) -> UUID:
        return contract_id

    @classmethod
    def propose(cls, contract_id: UUID, terms: Terms) -> "Contract":
        """A contract of these terms, which nothing changes any more."""
        fields = {name: getattr(terms, name) for name in terms.__struct_fields__}
        return cls(contract_id=contract_id, sla_terms=fields.pop("sla"), sla_rule=RULE, **fields)

    def reserve(self, hold_id: UUID) -> None:
        """The money is there. Raises WrongContractState."""
        self._in(PROPOSED)
        self._reserved(hold_id=hold_id)

    def activate(self, now: datetime) -> None:
        """The service begins. Raises WrongContractState, DeadlineTooClose."""
        self._in(RESERVED)
        if now + timedelta(milliseconds=self.terms.duration_ms) > self.terms.deadline_at:
            raise states.DeadlineTooClose(f"{self.terms.duration_ms} ms by {self.terms.deadline_at.isoformat()}")
        self._activated(started_at=now)

    def require_active(self) -> None:
        """Pass while the service runs. Raises WrongContractState."""
        self._in(ACTIVE)

    def report_usage(self, cumulative_ms: int, now: datetime) -> None:
        """What has been delivered so far; not more than was known changes nothing. All that was bought completes it.

        Raises:
            WrongContractState, AlreadySettled, UsageBeyondContract.
        """
        if self.status == SETTLED:
            raise states.AlreadySettled(f"contract {self.id}")
        self._in(ACTIVE, *ENDED)
        check_usage(self, cumulative_ms, now)
        if cumulative_ms > self.used_ms:
            self._usage_reported(cumulative_ms=cumulative_ms)
        if self.status == ACTIVE and self.used_ms == self.terms.duration_ms:
            self._completed(ended_at=now)

    def evaluate_window(self, window: int, measured: Measured, evidence_hash: str, now: datetime) -> None:
        """Judge the next window of the time since the start; the last one is as long as the contract ran in it.

        Raises:
            WrongContractState, WindowOutOfOrder, WindowNotOver, WindowIncomplete, EvidenceInvalid.
        """
        self._in(ACTIVE, *ENDED)
        length_ms = window_ms(self, window, now)
        checked_measures(measured, length_ms)
        fee = self.terms.due(length_ms)
        self._window_evaluated(
            window=window,
            **msgspec.structs.asdict(measured),
            evidence_hash=checked_evidence(evidence_hash),
            fee_grains=fee,
            credit_grains=credit(self.terms.sla, measured, fee),
            sla_rule=RULE,
        )

    def complete(self, now: datetime) -> None:
        """The customer accepts what was delivered as all of it. Raises WrongContractState."""
        self._in(ACTIVE)
        self._completed(ended_at=now)

    def breach(self, reason: str, now: datetime) -> None:
        """The provider gives up, or is found to have. Raises WrongContractState."""
        self._in(ACTIVE)
        self._breached(reason=reason, ended_at=now)

    def cancel(self, reason: str, now: datetime) -> None:
        """The customer wants no more of it; what was delivered is paid. Raises WrongContractState."""
        self._in(PROPOSED, RESERVED, ACTIVE)
        self._cancelled(reason=reason, ended_at=now)

    def expire(self, now: datetime) -> None:
        """The deadline has come. Raises WrongContractState, DeadlineNotReached."""
        self._in(ACTIVE)
        if now < self.terms.deadline_at:
            raise states.DeadlineNotReached(f"until {self.terms.deadline_at.isoformat()}")
        self._expired(ended_at=self.terms.deadline_at)

    def hand_off(self, to_contract_id: UUID, hold_id: UUID | None, now: datetime) -> None:
        """Another contract goes on with it, from `outgoing_ms` of it on. Raises WrongContractState."""
        self._in(ACTIVE)
        self._handed_off(to_contract_id=to_contract_id, hold_id=hold_id, ended_at=now, kept_ms=outgoing_ms(self, now))

    def dispute(self, reason: str, now: datetime) -> None:
        """The customer does not agree to what was reported: nothing is settled until that is decided, or review ends.

        Raises:
            WrongContractState, AlreadySettled, AlreadyDisputed.
        """
        check_open_to_dispute(self, now)
        self._in(ACTIVE, *ENDED)
        self._disputed(reason=reason)

    def decide_dispute(self, payable_ms: int, reason: str) -> None:
        """At most so much of what was reported is paid. Raises WrongContractState, NotDisputed, UsageBeyondContract."""
        self._in(ACTIVE, *ENDED)
        if not self.disputed:
            raise states.NotDisputed(f"contract {self.id}")
        if not 0 <= payable_ms <= self.terms.duration_ms:
            raise states.UsageBeyondContract(f"{payable_ms} of {self.terms.duration_ms} ms")
        self._dispute_decided(payable_ms=payable_ms, reason=reason)

    def settle(self, paid: Paid) -> None:
        """What is due has been paid. Raises WrongContractState."""
        self._in(*ENDED)
        due = due_of(self)
        self._settled(
            usage_ms=due.usage_ms,
            usage_grains=due.usage_grains,
            credit_grains=due.credit_grains,
            **msgspec.structs.asdict(paid),
        )

    def call_off(self, reason: str, now: datetime) -> None:
        """Nothing comes of it: it is cancelled if it has not ended, and nothing is paid. Again changes nothing."""
        if self.status == SETTLED:
            return
        if self.status not in ENDED:
            self._cancelled(reason=reason, ended_at=now)
        unpaid = msgspec.structs.asdict(msgspec.structs.replace(NOTHING, released_grains=held_of(self)))
        self._settled(usage_ms=0, usage_grains=0, credit_grains=0, **unpaid)

    def _in(self, *allowed: str) -> None:
        if self.status not in allowed:
            raise states.WrongContractState(f"contract {self.id} is {self.status}, not {' or '.join(sorted(allowed))}")

    @event(ContractFacts.Reserved)
    def _reserved(self, hold_id: UUID) -> None:
        self.hold_id = hold_id
        self.status = RESERVED

    @event(ContractFacts.Activated)
    def _activated(self, started_at: datetime) -> None:
        self.started_at = started_at
        self.status = ACTIVE

    @event(ContractFacts.UsageReported)
    def _usage_reported(self, cumulative_ms: int) -> None:
        self.used_ms = cumulative_ms

    @event(ContractFacts.SlaWindowEvaluated)
    def _window_evaluated(
        self,
        window: int,
        ok_ms: int,
        degraded_ms: int,
        unknown_ms: int,
        excluded_ms: int,
        evidence_hash: str,
        fee_grains: int,
        credit_grains: int,
        sla_rule: str,
    ) -> None:
        self.windows = window + 1
        self.credit_grains += credit_grains

    @event(ContractFacts.Completed)
    def _completed(self, ended_at: datetime) -> None:
        self._end(COMPLETED, ended_at)

    @event(ContractFacts.Breached)
    def _breached(self, reason: str, ended_at: datetime) -> None:
        self._end(BREACHED, ended_at)

    @event(ContractFacts.Cancelled)
    def _cancelled(self, reason: str, ended_at: datetime) -> None:
        self._end(CANCELLED, ended_at)

    @event(ContractFacts.Expired)
    def _expired(self, ended_at: datetime) -> None:
        self._end(EXPIRED, ended_at)

    @event(ContractFacts.HandedOff)
    def _handed_off(self, to_contract_id: UUID, hold_id: UUID | None, ended_at: datetime, kept_ms: int | None) -> None:
        self.hold_id = hold_id
        self.kept_ms = self.used_ms if kept_ms is None else kept_ms
        self._end(HANDED_OFF, ended_at)

    @event(ContractFacts.Disputed)
    def _disputed(self, reason: str) -> None:
        self.disputed = True

    @event(ContractFacts.DisputeDecided)
    def _dispute_decided(self, payable_ms: int, reason: str) -> None:
        self.disputed = False
        self.payable_ms = payable_ms

    @event(ContractFacts.Settled)
    def _settled(
        self,
        usage_ms: int,
        usage_grains: int,
        credit_grains: int,
        charged_grains: int,
        fee_grains: int,
        penalty_grains: int,
        provider_grains: int,
        released_grains: int,
        transfer_id: UUID | None,
    ) -> None:
        self.status = SETTLED

    def _end(self, status: str, ended_at: datetime) -> None:
        self.status = status
        self.ended_at = ended_at
