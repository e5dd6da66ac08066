"""Monitoring over HTTP: what operators do to read models by REST, dead letters by GraphQL."""

from .graphql import Query
from .rest import router

__all__ = ["Query", "router"]
