"""The GraphQL schema: the queries and subscriptions of every context, merged."""

from functools import cache
from types import ModuleType

from strawberry.schema import Schema
from strawberry.tools import merge_types

from .edge.graphql_server import schema_of


@cache
def build_schema(contexts: tuple[ModuleType, ...]) -> Schema:
    """Merge the `Query` and `Subscription` types of these modules; a module may lack either.

    It belongs to no app: those of one process share it.
    """
    queries = tuple(module.Query for module in contexts if hasattr(module, "Query"))
    subscriptions = tuple(module.Subscription for module in contexts if hasattr(module, "Subscription"))
    return schema_of(merge_types("Query", queries), merge_types("Subscription", subscriptions))
