"""Monitoring over HTTP: what operators do to read models and incidents by REST; dead letters, incidents by GraphQL."""

from .graphql import Query
from .incidents import Subscription
from .rest import router

__all__ = ["Query", "Subscription", "router"]
