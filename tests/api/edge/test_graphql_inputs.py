"""The short way to make input objects gives what the general way gives."""

import asyncio
from enum import Enum
from typing import Any

import pytest
import strawberry
from strawberry.schema import Schema
from strawberry.schema.config import StrawberryConfig

from api.edge.graphql_inputs import prepare
from api.edge.graphql_server import SCALARS
from api.edge.scalars import Position


@strawberry.enum
class Colour(Enum):
    RED = "r"
    BLUE = "b"


@strawberry.input
class Least:
    service: str
    score_bp: int = 5


@strawberry.input
class Wanted:
    name: str
    nothing: int | None
    at: Position | None = None
    colour: Colour = Colour.RED
    colours: list[Colour] = strawberry.field(default_factory=list)
    tags: list[str] = strawberry.field(default_factory=lambda: ["a"])
    grid: list[list[int | None]] | None = None
    least: Least | None = None
    others: list[Least] = strawberry.field(default_factory=list)
    left_out: str | None = strawberry.UNSET


@strawberry.type
class Query:
    @strawberry.field
    def told(self, wanted: Wanted | None = None) -> str:
        told = repr(wanted)
        if wanted is not None:
            wanted.tags.append("changed")  # must not be seen by the next who leaves it out
        return told


SCHEMA = Schema(query=Query, config=StrawberryConfig(scalar_map=SCALARS))


def told(wanted: Any) -> Any:
    result = asyncio.run(SCHEMA.execute("query($w: Wanted) { told(wanted: $w) }", variable_values={"w": wanted}))
    assert not hasattr(result, "__aiter__")
    return result.data, [error.message for error in result.errors or []]


ASKED: list[Any] = [
    None,
    {"name": "x"},
    {"name": "x", "nothing": None, "at": 7, "colour": "BLUE", "colours": ["RED", "BLUE"], "tags": []},
    {"name": "x", "grid": [[1, None], []], "least": {"service": "s"}, "others": [{"service": "t", "scoreBp": 9}]},
    {"name": "x", "least": None, "leftOut": None, "grid": None, "tags": "one"},
    {"name": "x", "leftOut": "y", "others": {"service": "t"}},
    {"name": "x", "unknown": 1},
    {"name": None},
    {"name": "x", "at": -1},
    {"name": "x", "others": [{"scoreBp": 1}]},
]


@pytest.fixture(scope="module", autouse=True)
def generally() -> list[Any]:
    """What was answered before the schema was prepared."""
    answers = [told(wanted) for wanted in ASKED * 2]
    prepare(SCHEMA._schema)
    return answers


def test_every_input_is_made_or_refused_as_the_general_way_does(generally: list[Any]) -> None:
    assert [told(wanted) for wanted in ASKED * 2] == generally
    assert generally[1][0]["told"].startswith("Wanted(name='x', nothing=None, at=None, colour=<Colour.RED")
