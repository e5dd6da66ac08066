"""Executing documents: what only reads attributes is answered without the general machinery.

A selection is compiled once an operation to one function, if each of its fields is an attribute or a method that takes
nothing, down to the leaves. A connection is answered by a single call, however many rows it has.
"""

import weakref
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, cast
from uuid import UUID

from graphql import (
    GraphQLBoolean,
    GraphQLInt,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfoHelpers,
    GraphQLSchema,
    GraphQLString,
    Undefined,
    is_list_type,
    is_non_null_type,
    is_object_type,
    is_scalar_type,
)
from graphql.execution.collect_fields import FieldDetailsList, GroupedFieldSet
from graphql.pyutils import Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.field import StrawberryField

Plain = Callable[[Any], Any]
"""From an object to what the answer says of it, or of one of its fields; raises at anything unusual."""

_VALUES = frozenset({bool, int, float, str, UUID, datetime, date, Decimal})
"""The types of values that are nothing but values: to be awaited, iterated or raised are others."""

_32_BITS = 2**31


class _Unusual(Exception):
    """The general machinery has to say what becomes of a value."""


class Executor(StrawberryGraphQLCoreExecutionContext):
    """Gives the same answers and errors: whatever is not a plain value of its type goes the general way."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        me = weakref.proxy(self)  # or it would hold itself, and wait with all it has answered for the garbage collector
        self.async_helpers = GraphQLResolveInfoHelpers(
            gather=lambda works: me.gather_async_work(works), track=lambda works: me.track_async_work(works)
        )
        if self.middleware_manager is not None and not self.middleware_manager.middlewares:
            self.middleware_manager = None
        unseen = self.middleware_manager is None
        self._plain = plain_fields(self.schema) if unseen else {}
        self._read = read_fields(self.schema) if unseen else {}
        self._compiled: dict[int, tuple[GroupedFieldSet, Plain | None]] = {}

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: GroupedFieldSet,
        position_context: Any,
    ) -> Any:
        answer = self._selection(parent_type, grouped_field_set)
        if answer is not None:
            try:
                return answer(source_value)
            except Exception:
                pass  # the general way finds the same and tells it as it should be told
        return super().execute_fields(parent_type, source_value, path, grouped_field_set, position_context)

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
                pass
        return super().execute_field(parent_type, source, field_details_list, path, position_context)

    def _selection(self, kind: GraphQLObjectType, selected: GroupedFieldSet) -> Plain | None:
        """How to answer all that is selected of an object; None when a field has to go the general way."""
        known = self._compiled.get(id(selected))
        if known is None:  # what is kept with its id stays alive, so that no other takes the id
            known = self._compiled[id(selected)] = (selected, self._compile(kind, selected))
        return known[1]

    def _compile(self, kind: GraphQLObjectType, selected: GroupedFieldSet) -> Plain | None:
        answers: list[tuple[str, Plain]] = []
        for name, details in selected.items():
            answer = self._field(kind, details)
            if answer is None:
                return None
            answers.append((name, answer))
        return lambda source: {name: answer(source) for name, answer in answers}

    def _field(self, kind: GraphQLObjectType, details: FieldDetailsList) -> Plain | None:
        name = details[0].node.name.value
        if name == "__typename" and self._read:
            return partial(_constant, kind.name)
        place = kind.name, name
        if place in self._plain:
            return self._plain[place]
        read = self._read.get(place)
        if read is None:
            return None
        completed = _completed(kind.fields[name].type, partial(self._object, details))
        return None if completed is None else partial(_then, read, completed)

    def _object(self, details: FieldDetailsList, kind: GraphQLObjectType) -> Plain | None:
        fields, deferred, *_ = self.collect_subfields(kind, details)
        answer = None if deferred or kind.is_type_of else self._selection(kind, fields)
        return None if answer is None else partial(_of_class, _class_of(kind), answer)


@lru_cache(8)
def plain_fields(schema: GraphQLSchema) -> Mapping[tuple[str, str], Plain]:
    """How to answer each field that only has to be read and is a scalar or a list of scalars, by type and field."""
    return {
        place: partial(_then, read, completed)
        for place, read in read_fields(schema).items()
        if (completed := _completed(schema.type_map[place[0]].fields[place[1]].type)) is not None  # type: ignore[attr-defined]
    }


@lru_cache(8)
def read_fields(schema: GraphQLSchema) -> Mapping[tuple[str, str], Plain]:
    """How to read each field that takes no arguments and is an attribute, or a method that takes nothing."""
    return {
        (type_name, field_name): read
        for type_name, kind in schema.type_map.items()
        if isinstance(kind, GraphQLObjectType)
        for field_name, field in kind.fields.items()
        if (read := _reader(field.extensions.get("strawberry-definition"))) is not None
    }


def _reader(field: StrawberryField | None) -> Plain | None:
    if field is None or field.arguments or field.extensions or field.is_async:
        return None
    resolver = field.base_resolver
    if resolver is None:
        return attrgetter(field.python_name)
    more = (resolver.parent_parameter, resolver.root_parameter, resolver.info_parameter)
    return cast(Plain, resolver.wrapped_func) if resolver.self_parameter and not any(more) else None


def _completed(
    kind: GraphQLOutputType, of_object: Callable[[GraphQLObjectType], Plain | None] = lambda kind: None
) -> Plain | None:
    """How a value of a type becomes part of the answer; None when it has to go the general way."""
    inner = kind.of_type if is_non_null_type(kind) else kind
    complete: Plain | None = None
    if is_list_type(inner):
        item = _completed(inner.of_type, of_object)
        complete = None if item is None else partial(_list, item)
    elif is_object_type(inner):
        complete = of_object(inner)
    elif is_scalar_type(inner):
        complete = _AS_THEY_ARE.get(inner.name) or partial(_scalar, inner.coerce_output_value)
    if complete is None or inner is not kind:
        return complete
    return partial(_nullable, complete)


def _class_of(kind: GraphQLObjectType) -> type:
    definition = kind.extensions["strawberry-definition"]
    return cast(type, (definition.concrete_of or definition).origin)  # a type made for a list of one is never made


def _constant(value: Any, source: Any) -> Any:
    return value


def _then(read: Plain, complete: Plain, source: Any) -> Any:
    return complete(read(source))


def _nullable(complete: Plain, value: Any) -> Any:
    return None if value is None else complete(value)


def _of_class(origin: type, answer: Plain, value: Any) -> Any:
    if type(value) is not origin:
        raise _Unusual
    return answer(value)


def _list(item: Plain, values: Any) -> list[Any]:
    if type(values) is not list:
        raise _Unusual
    return [item(value) for value in values]


def _scalar(coerce: Plain, value: Any) -> Any:
    if type(value) not in _VALUES:
        raise _Unusual
    coerced = coerce(value)
    if coerced is None or coerced is Undefined:
        raise _Unusual
    return coerced


def _text(value: Any) -> Any:
    return value if type(value) is str else _scalar(GraphQLString.coerce_output_value, value)


def _flag(value: Any) -> Any:
    return value if type(value) is bool else _scalar(GraphQLBoolean.coerce_output_value, value)


def _number(value: Any) -> Any:
    if type(value) is int and -_32_BITS <= value < _32_BITS:
        return value
    return _scalar(GraphQLInt.coerce_output_value, value)


_AS_THEY_ARE: Mapping[str, Plain] = {"String": _text, "Boolean": _flag, "Int": _number}
