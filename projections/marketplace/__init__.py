"""Read models of the marketplace: what is offered, how contracts and bursts stand, and the work under them."""

from .bursts import BurstRow, Bursts
from .jobs import JobRow, Jobs
from .matches import DealingRow, Dealings, Matches, MatchRow
from .trade import OPEN, WITHDRAWN, ContractRow, Contracts, OfferingRow, Offerings

READ_MODELS = (Offerings(), Contracts(), Jobs(), Bursts(), Matches(), Dealings())

__all__ = [
    "OPEN", "READ_MODELS", "WITHDRAWN", "BurstRow", "Bursts", "ContractRow", "Contracts", "DealingRow", "Dealings",
    "JobRow", "Jobs", "MatchRow", "Matches", "OfferingRow", "Offerings",
]  # fmt: skip
