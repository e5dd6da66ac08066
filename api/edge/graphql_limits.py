"""Bounds on GraphQL documents, checked before validation: each refusal has its own code and says the number."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSyntaxError,
    NameNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    parse,
)
from strawberry.extensions import SchemaExtension
from strawberry.schema.schema import Schema, validate_document
from strawberry.types.execution import ExecutionContext

MAX_DEPTH = 10
MAX_ALIASES = 15
MAX_DIRECTIVES = 5
MAX_FIELDS = 300
MAX_TOKENS = 1_500
MAX_INTROSPECTION_DEPTH = 15
_CACHED_DOCUMENTS = 256
_INTROSPECTION = ("__schema", "__type")


@dataclass(frozen=True, slots=True)
class Size:
    """What executing a selection costs, with every fragment counted where it is spread."""

    depth: int = 0
    introspection_depth: int = 0
    aliases: int = 0
    directives: int = 0
    fields: int = 0

    def beside(self, other: "Size") -> "Size":
        return Size(
            max(self.depth, other.depth),
            max(self.introspection_depth, other.introspection_depth),
            self.aliases + other.aliases,
            self.directives + other.directives,
            self.fields + other.fields,
        )


class DocumentsRefused(Exception):
    """A document does not parse, is too large or does not validate."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


def sizes(document: DocumentNode) -> Size:
    """The size of all operations together.

    Each fragment is measured once, however often it is spread, so that a chain of fragments which expands to
    billions of fields is refused in the time its text takes to read.
    """
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    measured: dict[str, Size] = {}

    def of_set(selections: SelectionSetNode | None, open_: frozenset[str]) -> Size:
        total = Size()
        for selection in selections.selections if selections else ():
            total = total.beside(of_selection(selection, open_))
        return total

    def of_selection(node: SelectionNode, open_: frozenset[str]) -> Size:
        own = Size(directives=len(node.directives or ()))
        if isinstance(node, FragmentSpreadNode):
            return own.beside(of_fragment(node.name.value, open_))
        if isinstance(node, FieldNode):
            return own.beside(_field(node, of_set(node.selection_set, open_)))
        return own.beside(of_set(getattr(node, "selection_set", None), open_))

    def of_fragment(name: str, open_: frozenset[str]) -> Size:
        if name not in fragments or name in open_:
            return Size()  # unknown names and cycles are refused by validation
        if name not in measured:
            measured[name] = of_set(fragments[name].selection_set, open_ | {name})
        return measured[name]

    total = Size()
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            total = total.beside(of_set(definition.selection_set, frozenset()))
    return total


def _field(node: FieldNode, inner: Size) -> Size:
    depth, introspection = inner.depth + 1, inner.introspection_depth
    if node.name.value in _INTROSPECTION:
        depth, introspection = 1, inner.depth + 1
    return Size(depth, introspection, inner.aliases + (node.alias is not None), inner.directives, inner.fields + 1)


def oversize(size: Size) -> list[GraphQLError]:
    """The refusals of a document of this size, none when it is within all bounds."""
    bounds = (
        ("query_too_deep", "nested", size.depth, MAX_DEPTH),
        ("introspection_too_deep", "nested in introspection", size.introspection_depth, MAX_INTROSPECTION_DEPTH),
        ("too_many_aliases", "aliases", size.aliases, MAX_ALIASES),
        ("too_many_directives", "directives", size.directives, MAX_DIRECTIVES),
        ("too_many_fields", "fields", size.fields, MAX_FIELDS),
    )
    return [
        GraphQLError(f"at most {most} {what}, found {found}", extensions={"code": code, "limit": most})
        for code, what, found, most in bounds
        if found > most
    ]


@lru_cache(_CACHED_DOCUMENTS)
def checked(schema: Schema, query: str, rules: tuple[type, ...]) -> DocumentNode:
    """A document that may be executed: parsed, bounded and validated once per text. Raises DocumentsRefused."""
    try:
        document = parse(query, max_tokens=MAX_TOKENS)
        errors = oversize(sizes(document)) or validate_document(schema._schema, document, rules)
    except GraphQLSyntaxError as error:
        code = "query_too_long" if f"more than {MAX_TOKENS} tokens" in error.message else "graphql_syntax"
        raise DocumentsRefused([_coded(error.message, code, error)]) from None
    except RecursionError:
        raise DocumentsRefused([_coded("nested too deep", "query_too_deep")]) from None
    if errors:
        raise DocumentsRefused(errors)
    return document


def _coded(message: str, code: str, source: GraphQLError | None = None) -> GraphQLError:
    positions = source.positions if source else None
    return GraphQLError(
        message, source=source.source if source else None, positions=positions, extensions={"code": code}
    )


class Documents(SchemaExtension):
    """Parses, bounds and validates through `checked`, whose cache all requests of the process share."""

    execution_context: ExecutionContext

    def on_parse(self) -> Iterator[None]:
        context = self.execution_context
        if context.query:
            try:
                document = checked(context.schema, context.query, context.validation_rules)
                _choose(document, context._provided_operation_name)
                context.graphql_document = document
                context.validation_rules = ()
            except DocumentsRefused as refused:
                # An exception here would end a stream without a word. The operation goes on with a document that
                # does nothing, as far as validation, which comes next and finds these errors.
                context.graphql_document = _nothing(context._provided_operation_name)
                context.pre_execution_errors = refused.errors
        yield


def _choose(document: DocumentNode, name: str | None) -> None:
    """Raises DocumentsRefused unless it is clear which operation is meant."""
    names = [d.name and d.name.value for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    if name is None and len(names) > 1:
        raise DocumentsRefused([_coded("several operations need an operationName", "graphql_invalid")])
    if name is not None and name not in names:
        raise DocumentsRefused([_coded("no operation has this operationName", "graphql_invalid")])


def _nothing(operation_name: str | None) -> DocumentNode:
    name = NameNode(value=operation_name) if operation_name is not None else None
    field_node = FieldNode(name=NameNode(value="__typename"))
    selections = SelectionSetNode(selections=(field_node,))
    operation = OperationDefinitionNode(operation=OperationType.QUERY, name=name, selection_set=selections)
    return DocumentNode(definitions=(operation,))
