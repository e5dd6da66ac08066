"""What can have been delivered of a contract, and how long the next window to judge is: checks that change nothing."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from domain.kernel.time import milliseconds

from .states import UsageBeyondContract, WindowNotOver, WindowOutOfOrder

if TYPE_CHECKING:
    from .contract import Contract


LAST_REPORT_MS = 3_000
"""A device reports every 2 s: so much it may have done since, when its contract goes to another."""


def deliverable_ms(contract: "Contract", now: datetime) -> int:
    """The most that can have been delivered by now: what was bought, or kept in a hand-off, and has passed."""
    assert contract.started_at is not None, "only what has started delivers"
    passed_ms = milliseconds(contract.started_at, contract.ended_at or min(now, contract.terms.deadline_at))
    bought_ms = contract.terms.duration_ms if contract.kept_ms is None else contract.kept_ms
    return min(bought_ms, passed_ms)


def outgoing_ms(contract: "Contract", now: datetime) -> int:
    """What a provider that hands off now can be paid: what it has reported and, until settlement, its last report."""
    return min(contract.used_ms + LAST_REPORT_MS, deliverable_ms(contract, now))


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
