"""The form of every result: one row a claim, with what it is held against."""

import os
import platform
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import psutil


@dataclass(frozen=True)
class Row:
    """One measured claim: medians in `unit`; `target` says in words what `met` decided.

    `limit` is what the hardware or the database alone does in the same run, `peer` what others' software does;
    `note` says where the time goes.
    """

    row: str
    ours: float
    unit: str
    target: str
    met: bool
    limit: float | None = None
    peer: float | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row with its ratios."""
        ratios = {
            "ratio_limit": None if not self.limit else round(self.ours / self.limit, 3),
            "ratio_peer": None if not self.peer else round(self.ours / self.peer, 3),
        }
        return {**asdict(self), **ratios}


def middle(values: list[float]) -> float:
    """The median, to three digits after the point."""
    return round(median(values), 3)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_mb": psutil.virtual_memory().total // 1_000_000,
        "load_before": round(os.getloadavg()[0], 2),
    }
