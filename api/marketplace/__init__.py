"""The marketplace over HTTP: commands by REST, reads by GraphQL."""

from .graphql import Query
from .rest import router

__all__ = ["Query", "router"]
