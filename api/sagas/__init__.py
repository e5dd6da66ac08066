"""Sagas over HTTP: an operator's decision by REST, how they stand by GraphQL."""

from .graphql import Query
from .rest import router

__all__ = ["Query", "router"]
