"""Sagas over HTTP: an operator's decision by REST, how they stand by GraphQL, as a feed too."""

from .graphql import Query, Subscription
from .rest import router

__all__ = ["Query", "Subscription", "router"]
