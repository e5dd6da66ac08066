"""Input objects made from what a client gave: how, is found out once for each type, not for each value."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any

from graphql import (
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLSchema,
    is_list_type,
    is_non_null_type,
    is_scalar_type,
)
from strawberry.types.arguments import InputContext
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.field import StrawberryField

Part = Callable[[Any, InputContext], Any]


def prepare(schema: GraphQLSchema) -> None:
    """Let every input type of a schema make its values as strawberry does, with names and types looked up before."""
    for kind in schema.type_map.values():
        if isinstance(kind, GraphQLInputObjectType):
            definition: StrawberryObjectDefinition = kind.extensions["strawberry-definition"]
            definition.from_input = _maker(kind, definition)


def _maker(
    kind: GraphQLInputObjectType, definition: StrawberryObjectDefinition
) -> Callable[[type, Mapping[str, Any], InputContext], Any]:
    fields: dict[str, StrawberryField] = {
        name: field.extensions["strawberry-definition"] for name, field in kind.fields.items()
    }
    without_default = {
        field.python_name: None
        for field in fields.values()
        if field.default_value is MISSING and field.default_factory is MISSING
    }
    parts = {
        name: (field.python_name, _part(name, kind.fields[name], field, definition)) for name, field in fields.items()
    }

    def make(made: type, value: Mapping[str, Any], context: InputContext) -> Any:
        given = {parts[name][0]: parts[name][1](one, context) for name, one in value.items()}
        return made(**without_default | given)

    return make


def _part(
    name: str, published: GraphQLInputField, field: StrawberryField, definition: StrawberryObjectDefinition
) -> Part:
    inner = published.type.of_type if is_non_null_type(published.type) else published.type
    if is_scalar_type(inner):
        return lambda value, context: value
    if is_list_type(inner):
        item = inner.of_type.of_type if is_non_null_type(inner.of_type) else inner.of_type
        if is_scalar_type(item):
            # A copy: every request that leaves the field out is given the same default.
            return lambda value, context: None if value is None else list(value)
    kind = field.resolve_type(type_definition=definition)
    return lambda value, context: context.convert(value, kind, name)
