"""What can happen to a contract after its proposal: the events that `Contract` records, under its own name."""

from typing import Any
from uuid import UUID

from domain.kernel import Aggregate, Instant


class ContractFacts:
    """The events of a contract. The aggregate that inherits them has them as its own, topics and all."""

    class Reserved(Aggregate.Event):
        """The agreed price is held."""

        hold_id: UUID

    class Activated(Aggregate.Event):
        started_at: Instant

    class UsageReported(Aggregate.Event):
        """All that has been delivered so far, so that a report that comes twice or late adds nothing."""

        cumulative_ms: int

    class SlaWindowEvaluated(Aggregate.Event):
        """`credit_grains` of the window's `fee_grains` go back to the customer, by rule `sla_rule`."""

        window: int
        ok_ms: int
        degraded_ms: int
        unknown_ms: int
        excluded_ms: int
        evidence_hash: str
        fee_grains: int
        credit_grains: int
        sla_rule: str

    class Completed(Aggregate.Event):
        ended_at: Instant

    class Breached(Aggregate.Event):
        reason: str
        ended_at: Instant

    class Cancelled(Aggregate.Event):
        reason: str
        ended_at: Instant

    class Expired(Aggregate.Event):
        ended_at: Instant

    class HandedOff(Aggregate.Event):
        """Another contract goes on with it. At most `kept_ms` are paid, and `hold_id` is held for them, if anything is.

        None, of old, is what was reported by then.
        """

        class_version = 2
        to_contract_id: UUID
        hold_id: UUID | None
        ended_at: Instant
        kept_ms: int | None

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["kept_ms"] = None

    class Disputed(Aggregate.Event):
        reason: str

    class DisputeDecided(Aggregate.Event):
        """At most `payable_ms` of what was reported are paid."""

        payable_ms: int
        reason: str

    class Settled(Aggregate.Event):
        """All amounts in grains. Usage less credit is charged; fee, penalty and the provider's part are the charge."""

        closes = True
        usage_ms: int
        usage_grains: int
        credit_grains: int
        charged_grains: int
        fee_grains: int
        penalty_grains: int
        provider_grains: int
        released_grains: int
        transfer_id: UUID | None
