"""What can have been delivered of a contract, and how long the next window to judge is: checks that change nothing."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from domain.kernel.time import milliseconds

from .states import UsageBeyondContract, WindowNotOver, WindowOutOfOrder

if TYPE_CHECKING:
    from .contract import Contract


def deliverable_ms(contract: "Contract", now: datetime) -> int:
    """The most that can have been delivered by now: what was bought, and no more than has passed."""
    assert contract.started_at is not None, "only what has started delivers"
    passed_ms = milliseconds(contract.started_at, contract.ended_at or min(now, contract.terms.deadline_at))
    return min(contract.terms.duration_ms, passed_ms)


def check_usage(contract: "Contract", cumulative_ms: int, now: datetime) -> None:
    """Pass where so much can have been delivered. Raises UsageBeyondContract."""
    most = deliverable_ms(contract, now)
    if not 0 <= cumulative_ms <= most:
        raise UsageBeyondContract(f"{cumulative_ms} of {most} ms")


def window_ms(contract: "Contract", window: int, now: datetime) -> int:
    """The length of the next window; the last one is as long as the contract ran in it.

    Raises:
        WindowOutOfOrder, WindowNotOver.
    """
    assert contract.started_at is not None
    size_ms, ends = contract.terms.sla.window_ms, contract.ended_at or contract.terms.deadline_at
    length_ms = min(size_ms, milliseconds(contract.started_at, ends) - window * size_ms)
    if window != contract.windows or length_ms <= 0:
        raise WindowOutOfOrder(f"window {window}, {contract.windows} are evaluated")
    if now < contract.started_at + timedelta(milliseconds=window * size_ms + length_ms):
        raise WindowNotOver(f"window {window}")
    return length_ms
