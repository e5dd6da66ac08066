"""Tokenomics over HTTP: commands by REST, reads by GraphQL."""

from .graphql import Query
from .rest import router
from .statement import Subscription

__all__ = ["Query", "Subscription", "router"]
