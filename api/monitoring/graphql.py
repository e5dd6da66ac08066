"""Dead letters over GraphQL: the facts read models could not fold, and what waits behind them. For operators."""

from datetime import datetime
from typing import Any

import strawberry

from api.edge.graphql import Condition, Connection, Info, Keyset, Position, Source, page_of, require
from projections.slots import REBUILD

from .incidents import IncidentQuery
from .services import ServiceQuery

_COLUMNS = ("cursor", "position", "key", "poison", "error", "traceback", "tried_at", "created_at")
_IN_ORDER = Keyset("dead_letters", ("position", "cursor", "key"), (int, str, str))


@strawberry.type
class DeadLetter:
    """A fact that was not folded into a row: the one that failed (poison), or one of the same row behind it.

    `key` is the row as JSON. `triedAt` is the position of the newest retry that was obeyed, null before the first.
    """

    projection: str
    in_rebuild: bool
    key: str
    position: Position
    poison: bool
    error: str
    traceback: str
    tried_at: Position | None
    set_aside_at: datetime

    @classmethod
    def of(cls, row: dict[str, Any]) -> "DeadLetter":
        return cls(
            projection=row["cursor"].removeprefix(REBUILD),
            in_rebuild=row["cursor"].startswith(REBUILD),
            key=row["key"],
            position=Position(row["position"]),
            poison=row["poison"],
            error=row["error"],
            traceback=row["traceback"],
            tried_at=Position(row["tried_at"]) if row["tried_at"] else None,
            set_aside_at=row["created_at"],
        )


@strawberry.type
class Query(IncidentQuery, ServiceQuery):
    """Queries of monitoring."""

    @strawberry.field
    async def dead_letters(
        self, info: Info, first: int, after: str | None = None, projection: str | None = None
    ) -> Connection[DeadLetter]:
        """What was set aside, in order of position; of one read model (and its rebuild) or of all."""
        require(info, "operator")
        conditions = []
        if projection is not None:
            cursors = [projection, REBUILD + projection]
            conditions = [Condition("cursor = ANY(%(cursors)s)", {"cursors": cursors})]
        source = Source("engine.dead_letters", _COLUMNS, conditions)
        return await page_of(info.context.ctx, source, _IN_ORDER, DeadLetter.of, first, after)
