"""Ports of the kernel: what the domain asks of the world, without knowing who answers."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Answers the present instant (aware, UTC). Tests turn a virtual one."""


def system_clock() -> datetime:
    """The present instant by the machine's clock."""
    return datetime.now(UTC)
