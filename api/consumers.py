"""The consumers of the log as operators see them: partitions and who holds them, pauses, dead letters, rebuilds."""

from collections import defaultdict
from typing import Any

import strawberry

from projections.slots import REBUILD

from .edge.context import ApiContext
from .edge.graphql import Milliseconds, Position
from .edge.health import consumers

_PARTITIONS = """
SELECT name, partition, position, version, rebuilt_at,
       CASE WHEN leased_until > clock_timestamp() THEN owner END AS owner
FROM engine.cursors ORDER BY name, partition
"""
_LETTERS = """
SELECT cursor, count(*) FILTER (WHERE poison) AS poison, count(*) FILTER (WHERE NOT poison) AS waiting
FROM engine.dead_letters GROUP BY cursor
"""
_CONTROLS = "SELECT projection, paused, rebuild_at FROM read.projection_controls"


@strawberry.type
class Partition:
    """A part of a consumer. `owner` is the worker that holds it now, null when nobody does."""

    partition: int
    position: Position
    version: int
    owner: str | None


@strawberry.type
class Rebuild:
    """A read model folded anew beside the live one: asked for, then begun, until it has come to the head."""

    begun: bool
    position: Position
    head: Position
    dead_letters: int


@strawberry.type
class Consumer:
    """A consumer of the log (a projection, the saga runner): how far its slowest partition has come.

    `deadLetters` counts the facts that could not be folded, `waitingLetters` those held back behind them.
    """

    name: str
    position: Position
    head: Position
    lag: int
    lag_ms: Milliseconds
    paused: bool
    dead_letters: int
    waiting_letters: int
    partitions: list[Partition]
    rebuild: Rebuild | None


async def projections(ctx: ApiContext) -> list[Consumer]:
    """Every consumer by name."""
    head, found = await consumers(ctx)
    cursors: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in await ctx.rows(_PARTITIONS):
        cursors[row["name"]].append(row)
    letters = {row["cursor"]: row for row in await ctx.rows(_LETTERS)}
    controls = {row["projection"]: row for row in await ctx.rows(_CONTROLS)}
    nothing, free = {"poison": 0, "waiting": 0}, {"paused": False, "rebuild_at": 0}
    return [
        Consumer(
            name=consumer.name,
            position=Position(consumer.position),
            head=Position(head),
            lag=consumer.lag_events,
            lag_ms=Milliseconds(consumer.lag_ms),
            paused=controls.get(consumer.name, free)["paused"],
            dead_letters=letters.get(consumer.name, nothing)["poison"],
            waiting_letters=letters.get(consumer.name, nothing)["waiting"],
            partitions=[_partition(row) for row in cursors[consumer.name]],
            rebuild=_rebuild(
                head,
                controls.get(consumer.name, free)["rebuild_at"],
                cursors[consumer.name],
                cursors.get(REBUILD + consumer.name, []),
                letters.get(REBUILD + consumer.name, nothing)["poison"],
            ),
        )
        for consumer in found
    ]


def _partition(row: dict[str, Any]) -> Partition:
    return Partition(
        partition=row["partition"], position=Position(row["position"]), version=row["version"], owner=row["owner"]
    )


def _rebuild(
    head: int, asked_at: int, live: list[dict[str, Any]], shadow: list[dict[str, Any]], letters: int
) -> Rebuild | None:
    """The rebuild that runs, or the one that is asked for and has not begun."""
    if not shadow and asked_at <= max((row["rebuilt_at"] for row in live), default=0):
        return None
    position = min((row["position"] for row in shadow), default=0)
    return Rebuild(begun=bool(shadow), position=Position(position), head=Position(head), dead_letters=letters)
