"""Executing documents: fields that only read an attribute are answered without the general machinery."""

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, TypeVar
from uuid import UUID

from graphql import (
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    Undefined,
    is_list_type,
    is_non_null_type,
    is_scalar_type,
)
from graphql.execution.collect_fields import FieldDetailsList
from graphql.pyutils import Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

T = TypeVar("T")
Plain = Callable[[Any], Any]

_VALUES = frozenset({bool, int, float, str, UUID, datetime, date, Decimal})
"""The types of values that are nothing but values: to be awaited, iterated or raised are others."""


class _Unusual(Exception):
    """The general machinery has to say what becomes of a value."""


class Executor(StrawberryGraphQLCoreExecutionContext):
    """Gives the same answers and errors: whatever is not a plain value of its type goes the general way."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        if self.middleware_manager is not None and not self.middleware_manager.middlewares:
            self.middleware_manager = None
        self._plain = plain_fields(self.schema) if self.middleware_manager is None else {}

    def execute_field(
        self,
        parent_type: GraphQLObjectType,
        source: Any,
        field_details_list: FieldDetailsList,
        path: Path,
        position_context: Any,
    ) -> Any:
        answer = self._plain.get((parent_type.name, field_details_list[0].node.name.value))
        if answer is not None:
            try:
                return answer(source)
            except Exception:
                pass  # the general way finds the same and tells it as it should be told
        return super().execute_field(parent_type, source, field_details_list, path, position_context)


@lru_cache(8)
def plain_fields(schema: GraphQLSchema) -> dict[tuple[str, str], Plain]:
    """How to answer each field that has no resolver and is a scalar or a list of scalars, by type and field."""
    found: dict[tuple[str, str], Plain] = {}
    for type_name, kind in schema.type_map.items():
        if not isinstance(kind, GraphQLObjectType):
            continue
        for field_name, field in kind.fields.items():
            completed = _completed(field.type)
            if completed is not None and getattr(field.resolve, "_is_default", False):
                name = field.extensions["strawberry-definition"].python_name
                found[type_name, field_name] = partial(_read, name, completed)
    return found


def _read(name: str, completed: Plain, source: Any) -> Any:
    return completed(getattr(source, name))


def _completed(kind: GraphQLOutputType) -> Plain | None:
    """How a value of a type becomes part of the answer; None for types of objects."""
    inner = kind.of_type if is_non_null_type(kind) else kind
    if is_list_type(inner):
        item = _completed(inner.of_type)
        complete = None if item is None else partial(_list, item)
    else:
        complete = partial(_scalar, inner.coerce_output_value) if is_scalar_type(inner) else None
    if complete is None or inner is not kind:
        return complete
    return partial(_nullable, complete)


def _nullable(complete: Plain, value: Any) -> Any:
    return None if value is None else complete(value)


def _scalar(coerce: Plain, value: Any) -> Any:
    if type(value) not in _VALUES:
        raise _Unusual
    coerced = coerce(value)
    if coerced is None or coerced is Undefined:
        raise _Unusual
    return coerced


def _list(item: Plain, values: Any) -> list[Any]:
    if type(values) is not list:
        raise _Unusual
    return [item(value) for value in values]
