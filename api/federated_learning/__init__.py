"""Federated learning over HTTP: commands and assignments by REST, reads and progress by GraphQL."""

from .graphql import Query, Subscription
from .rest import router

__all__ = ["Query", "Subscription", "router"]
