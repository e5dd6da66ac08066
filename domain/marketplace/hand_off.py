"""A hand-off: what a provider cannot deliver goes to the next match of the receipt, before the promise is broken."""

from uuid import UUID

from domain.kernel import Aggregate, Created, Refusal, derive, event

IDLE, ASKED, DONE = "idle", "asked", "done"
HEADROOM, DEVICE_RESTS, SLA_AT_RISK = "headroom", "device_rests", "sla_at_risk"
MAX_ASKED = 10


class NoReceipt(Refusal):
    """A contract is handed off along the receipt that it was proposed with."""


class NotOfReceipt(Refusal):
    """A contract is proposed with a receipt of its customer in which its offering is a candidate."""


class HandOffsExhausted(Refusal):
    """A hand-off of a contract is tried at most 10 times."""


class NoHeir(Refusal):
    """A contract goes to a lower-ranked offering of another device that is free, in time, within price and funds."""


class HandOff(Aggregate):
    """Of one contract: asked for and refused, until it is done."""

    class Opened(Created):
        contract_id: UUID

    class Asked(Aggregate.Event):
        """The provider can go on for `headroom_ms`, and `need_ms` of the contract are left."""

        contract_id: UUID
        reason: str
        headroom_ms: int
        need_ms: int

    class Refused(Aggregate.Event):
        """The contract stays where it is."""

        reason: str

    class Done(Aggregate.Event):
        closes = True
        to_contract_id: UUID

    @event(Opened)
    def __init__(self, contract_id: UUID) -> None:
        self.contract_id = contract_id
        self.status = IDLE
        self.asked = 0

    @staticmethod
    def create_id(contract_id: UUID) -> UUID:
        return derive("marketplace.HandOff", contract_id)

    def ask(self, reason: str, headroom_ms: int, need_ms: int) -> None:
        """Look for somebody else; while that is asked or done it changes nothing. Raises HandOffsExhausted."""
        if self.status != IDLE:
            return
        if self.asked >= MAX_ASKED:
            raise HandOffsExhausted(f"contract {self.contract_id}")
        self._asked(contract_id=self.contract_id, reason=reason, headroom_ms=headroom_ms, need_ms=need_ms)

    def refuse(self, reason: str) -> None:
        """Nobody takes it; again changes nothing."""
        if self.status == ASKED:
            self._refused(reason=reason)

    def finish(self, to_contract_id: UUID) -> None:
        """Another contract goes on with it."""
        self._done(to_contract_id=to_contract_id)

    @event(Asked)
    def _asked(self, contract_id: UUID, reason: str, headroom_ms: int, need_ms: int) -> None:
        self.status = ASKED
        self.asked += 1

    @event(Refused)
    def _refused(self, reason: str) -> None:
        self.status = IDLE

    @event(Done)
    def _done(self, to_contract_id: UUID) -> None:
        self.status = DONE


def heir_of(contract_id: UUID) -> UUID:
    """The id of the contract that goes on with another."""
    return derive("marketplace.Contract.heir", contract_id)
