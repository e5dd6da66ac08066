"""The short way to answer plain fields says what the general way says."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import strawberry
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

    @strawberry.field
    def shouted(self) -> str:
        return self.name.upper()


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


def _answer(executor: type[StrawberryGraphQLCoreExecutionContext], make: Callable[[], Thing]) -> tuple[Any, list[Any]]:
    @strawberry.type
    class Query:
        @strawberry.field
        def thing(self) -> Thing | None:
            return make()

    schema = Schema(query=Query, execution_context_class=executor, config=StrawberryConfig(scalar_map=SCALARS))
    result = asyncio.run(schema.execute(QUERY))
    assert not hasattr(result, "__aiter__")
    return result.data, [error.formatted for error in result.errors or []]


@pytest.mark.parametrize(
    "odd",
    [
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
    ],
)
def test_every_value_is_answered_or_refused_as_the_general_way_does(odd: dict[str, Any]) -> None:
    def make() -> Thing:
        return Thing(**PLAIN | odd, other=Thing(**PLAIN))

    assert _answer(Executor, make) == _answer(StrawberryGraphQLCoreExecutionContext, make)


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


def test_fields_with_a_resolver_and_objects_go_the_general_way() -> None:
    @strawberry.type
    class Query:
        thing: Thing

    schema = Schema(query=Query, config=StrawberryConfig(scalar_map=SCALARS))
    fields = {name for kind, name in plain_fields(schema._schema) if kind == "Thing"}
    assert {"name", "thingId", "grid"} <= fields
    assert not fields & {"shouted", "other"}


def test_plain_fields_never_see_the_general_way() -> None:
    Short.general = 0
    _answer(Short, lambda: Thing(**PLAIN, other=Thing(**PLAIN)))
    assert Short.general == 6  # two objects; `shouted` and `__typename` in two steps each, since neither may be null
