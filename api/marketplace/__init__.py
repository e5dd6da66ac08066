"""The marketplace over HTTP: commands by REST, reads by GraphQL."""

from .feed_graphql import Subscription
from .graphql import Query
from .rest import router

__all__ = ["Query", "Subscription", "router"]
