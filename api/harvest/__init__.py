"""Harvest over HTTP: commands by REST, reads by GraphQL."""

from .graphql import Query, Subscription
from .rest import router

__all__ = ["Query", "Subscription", "router"]
