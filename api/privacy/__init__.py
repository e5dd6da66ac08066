"""Privacy at the edge: erasing people by REST, who is erased by GraphQL."""

from .graphql import Query as Query
from .rest import router as router

__all__ = ["Query", "router"]
