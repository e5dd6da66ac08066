"""Read models of the marketplace: what is offered, how every contract stands, and the work under it."""

from .jobs import JobRow, Jobs
from .trade import OPEN, WITHDRAWN, ContractRow, Contracts, OfferingRow, Offerings

READ_MODELS = (Offerings(), Contracts(), Jobs())

__all__ = [
    "OPEN", "READ_MODELS", "WITHDRAWN", "ContractRow", "Contracts", "JobRow", "Jobs", "OfferingRow", "Offerings",
]  # fmt: skip
