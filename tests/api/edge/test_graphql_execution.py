"""The short way to answer plain fields says what the general way says."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import strawberry
from hypothesis import given, settings
from hypothesis import strategies as st
from strawberry.schema import Schema
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from api.edge.graphql_execution import Executor, plain_fields
from api.edge.graphql_server import SCALARS
from api.edge.scalars import Grains, Position


@strawberry.type
class Thing:
    name: str
    alias: str | None
    size: int
    share: float
    shown: bool
    thing_id: UUID
    made_at: datetime
    position: Position
    grains: Grains | None
    tags: list[str]
    sizes: list[int | None] | None
    grid: list[list[int]]
    other: "Thing | None" = None
    others: "list[Thing]" = strawberry.field(default_factory=list)

    @strawberry.field
    def shouted(self) -> str:
        return self.name.upper()

    @strawberry.field
    def made(self) -> "list[Thing | None]":
        return [self.other]

    @strawberry.field
    def repeated(self, times: int = 2) -> str:
        return self.name * times

    @strawberry.field
    async def awaited(self) -> str:
        return self.name


PLAIN: dict[str, Any] = {
    "name": "one",
    "alias": None,
    "size": 3,
    "share": 0.5,
    "shown": True,
    "thing_id": UUID(int=7),
    "made_at": datetime(2026, 1, 2, tzinfo=UTC),
    "position": 12,
    "grains": 10**15,
    "tags": ["a", "b"],
    "sizes": [1, None],
    "grid": [[1, 2], []],
}
QUERY = """{ thing { name alias size share shown thingId madeAt position grains tags sizes grid shouted
    other { called: name tags __typename } } }"""


async def _later() -> str:
    return "later"


class Short(Executor):
    """Counts what goes the general way."""

    general = 0

    def complete_value(self, *given: Any, **named: Any) -> Any:
        Short.general += 1
        return super().complete_value(*given, **named)


def _answer(
    executor: type[StrawberryGraphQLCoreExecutionContext],
    make: Callable[[], Thing],
    query: str = QUERY,
    **variables: bool,
) -> tuple[Any, list[Any]]:
    @strawberry.type
    class Query:
        @strawberry.field
        async def thing(self) -> Thing | None:
            return make()

    schema = Schema(query=Query, execution_context_class=executor, config=StrawberryConfig(scalar_map=SCALARS))
    result = asyncio.run(schema.execute(query, variable_values=variables))
    assert not hasattr(result, "__aiter__")
    return result.data, [error.formatted for error in result.errors or []]


ODD: list[dict[str, Any]] = [
    {},
    {"name": None},
    {"name": 5},
    {"name": ValueError("kept from reading")},
    {"alias": ValueError("kept from reading")},
    {"size": 2**40},
    {"size": "many"},
    {"size": "12"},
    {"share": float("nan")},
    {"shown": 1},
    {"made_at": "yesterday"},
    {"position": object()},
    {"tags": None},
    {"tags": ("a", "b")},
    {"tags": "ab"},
    {"tags": ["a", None]},
    {"sizes": None},
    {"sizes": [1, "x", None]},
    {"grid": [[1], None]},
]


@pytest.mark.parametrize("odd", ODD)
def test_every_value_is_answered_or_refused_as_the_general_way_does(odd: dict[str, Any]) -> None:
    def make() -> Thing:
        return Thing(**PLAIN | odd, other=Thing(**PLAIN))

    assert _answer(Executor, make) == _answer(StrawberryGraphQLCoreExecutionContext, make)


LEAVES = ["name", "alias", "called: size", "tags", "made_at: madeAt", "__typename", "shouted", "awaited", "repeated",
    "sizes @include(if: $shown)", "...Leaf", "... on Thing { grid }", "...Leaf @skip(if: $shown)", "name"]  # fmt: skip
INNER = ["other", "others", "made", "other @skip(if: $shown)", "again: others"]


def selections(depth: int) -> st.SearchStrategy[str]:
    field = st.sampled_from(LEAVES)
    if depth:
        field |= st.builds("{} {}".format, st.sampled_from(INNER), selections(depth - 1))
    return st.lists(field, min_size=1, max_size=4).map(lambda fields: "{ " + " ".join(fields) + " }")


@settings(max_examples=60, deadline=None)
@given(selections(3), st.booleans(), st.lists(st.sampled_from([{}, *ODD, {"other": 5}, {"others": None}]), min_size=3))
def test_every_selection_is_answered_or_refused_as_the_general_way_does(
    selection: str, shown: bool, odd: list[dict[str, Any]]
) -> None:
    def make() -> Thing:
        first, second, *rest = odd
        inner = [Thing(**{**PLAIN, **one}) for one in rest]
        return Thing(**{**PLAIN, "other": Thing(**{**PLAIN, **second}), "others": inner, **first})

    leaf = "fragment Leaf on Thing { tags other { name } }"
    query = f"query($shown: Boolean!) {{ thing {selection} all: thing {{ name @skip(if: $shown) ...Leaf }} }} {leaf}"
    short = _answer(Executor, make, query, shown=shown)
    assert short == _answer(StrawberryGraphQLCoreExecutionContext, make, query, shown=shown)


def test_a_value_that_comes_later_is_waited_for() -> None:
    data, errors = _answer(Executor, lambda: Thing(**PLAIN | {"alias": _later()}))
    assert (data["thing"]["alias"], errors) == ("later", [])


def test_a_value_that_is_missing_is_told_in_its_place() -> None:
    def make() -> Thing:
        thing = Thing(**PLAIN)
        del thing.alias
        return thing

    data, errors = _answer(Executor, make)
    assert data["thing"]["alias"] is None
    assert [error["path"] for error in errors] == [["thing", "alias"]]


def test_fields_with_arguments_or_what_comes_later_go_the_general_way() -> None:
    @strawberry.type
    class Query:
        thing: Thing

    schema = Schema(query=Query, config=StrawberryConfig(scalar_map=SCALARS))
    fields = {name for kind, name in plain_fields(schema._schema) if kind == "Thing"}
    assert {"name", "thingId", "grid", "shouted"} <= fields
    assert not fields & {"other", "made", "repeated", "awaited"}


def test_what_is_plain_down_to_the_leaves_never_sees_the_general_way() -> None:
    Short.general = 0
    _answer(Short, lambda: Thing(**PLAIN, other=Thing(**PLAIN), others=[Thing(**PLAIN)]))
    assert Short.general == 1  # what the root answers comes later
    _answer(Short, lambda: Thing(**PLAIN), "{ thing { name made { repeated } } }")
    assert Short.general > 2


def test_an_answer_leaves_nothing_to_the_garbage_collector() -> None:
    left: list[weakref.ref[Executor]] = []

    class Watched(Executor):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            left.append(weakref.ref(self))

    gc.collect()
    gc.disable()
    try:
        _answer(Watched, lambda: Thing(**PLAIN, other=Thing(**PLAIN)))
        assert [executor() for executor in left] == [None]
    finally:
        gc.enable()
