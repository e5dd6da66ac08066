"""Health of this process and of what it needs: /livez, /readyz, /metrics, /version."""

import asyncio
import platform
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Response

from domain.kernel.time import milliseconds
from infrastructure.bus_status import BusMetrics, dead_letters, relay_status
from infrastructure.operations import record_business_metric
from projections.figures import FigureMetrics, figures
from projections.status import StatusMetrics, status

from .commands import answer
from .context import QUERY_TIMEOUT_MS, ApiContext
from .gate import GatedRoute, allow, probe
from .metrics import exposition

CHECK_TIMEOUT_S = 2.0
MAX_LAG_EVENTS = 10_000
"""How far a projection or the saga runner may be behind before the process calls itself not ready."""

MIN_FREE_BYTES = 200_000_000
"""Less free space than this under the home, and the process calls itself not ready."""

_HEAD = "SELECT coalesce(max(position), 0) AS head FROM log.events"
_CURSORS = """
SELECT name, position, (SELECT recorded_at FROM log.events AS e WHERE e.position = c.position + 1) AS waiting_since
FROM (SELECT name, min(position) AS position FROM engine.cursors WHERE name NOT LIKE 'rebuild:%' GROUP BY name) AS c
ORDER BY name
"""

log = structlog.get_logger("api")


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer of the log: where it stands, and how far that is behind the head."""

    name: str
    position: int
    lag_events: int
    lag_ms: int
    """How long the oldest event it has not dealt with has waited."""


async def consumers(ctx: ApiContext) -> tuple[int, list[Consumer]]:
    """The head of the log, and every consumer by its slowest partition; a rebuild holds nobody up and is not one."""
    rows = await _rows(ctx, _CURSORS)
    (found,) = await _rows(ctx, _HEAD)  # read last, so that no lag is negative
    head, now = int(found["head"]), datetime.now(UTC)
    return head, [
        Consumer(
            name=row["name"],
            position=row["position"],
            lag_events=head - row["position"],
            lag_ms=max(0, milliseconds(row["waiting_since"], now)) if row["waiting_since"] else 0,
        )
        for row in rows
    ]


async def _database(ctx: ApiContext) -> dict[str, Any]:
    await _rows(ctx, "SELECT 1 AS one")
    return {}


async def _rows(ctx: ApiContext, query: str) -> list[dict[str, Any]]:
    """The rows of a query. Who stops waiting leaves it to end by itself: to cancel it may take as long."""
    return await asyncio.shield(asyncio.create_task(ctx.rows(query)))


async def _consumers(ctx: ApiContext) -> dict[str, Any]:
    head, found = await consumers(ctx)
    late = {consumer.name for consumer in found if consumer.lag_events > MAX_LAG_EVENTS}
    behind = sorted(late - ctx.elsewhere)
    return {
        "ok": not behind,
        "behind": behind,
        "head": head,
        "lag_events": {consumer.name: consumer.lag_events for consumer in found},
        "lag_ms": {consumer.name: consumer.lag_ms for consumer in found},
    }


async def _disk(ctx: ApiContext) -> dict[str, Any]:
    """Blobs and keys are written to the home, or where it will be made."""
    home = ctx.settings.home
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    free = (await asyncio.to_thread(shutil.disk_usage, place)).free
    return {"ok": free >= MIN_FREE_BYTES}


async def _bus(url: str) -> dict[str, Any]:
    """A NATS server greets every connection with INFO."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname or "127.0.0.1", address.port or 4222)
    try:
        if not (await reader.readline()).startswith(b"INFO "):
            raise RuntimeError("what answers is not NATS")
    finally:
        writer.close()
    return {}


def _collected(ctx: ApiContext) -> tuple[StatusMetrics, FigureMetrics, BusMetrics]:
    with ctx.database.reader.connection() as connection:
        connection.execute(f"SET LOCAL statement_timeout = {QUERY_TIMEOUT_MS}".encode())
        found = figures(connection)
        for figure in found.business:
            record_business_metric(figure)
        bus = BusMetrics(relay_status(connection), dead_letters(connection))
        return StatusMetrics(status(connection)), FigureMetrics(found), bus


async def _checked(name: str, check: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            found = {"ok": True, **await check()}
    except Exception as error:
        log.warning("check failed", check=name, error=str(error) or type(error).__name__)
        found = {"ok": False, "error": type(error).__name__}  # details go to the log, this answer is open to all
    return {"name": name, **found, "ms": round((time.perf_counter() - started) * 1_000, 1)}


async def checks(ctx: ApiContext) -> list[dict[str, Any]]:
    """Each thing this process needs: its name, whether it is well, how long the look took, and what was found."""
    bus = ctx.settings.nats_url
    looks = [_checked("database", lambda: _database(ctx)), _checked("consumers", lambda: _consumers(ctx))]
    if bus is not None:
        looks.append(_checked("bus", lambda: _bus(bus.get_secret_value())))
    looks.append(_checked("disk", lambda: _disk(ctx)))
    return await asyncio.gather(*looks)


def router(ctx: ApiContext) -> APIRouter:
    """The routes of health; all but /metrics are open and tell no names, addresses or secrets."""
    routes = APIRouter(route_class=GatedRoute, tags=["health"])
    started = time.monotonic()
    looking: asyncio.Task[list[dict[str, Any]]] | None = None

    @routes.get("/livez")
    @probe
    async def livez() -> Response:
        """The event loop answers."""
        return answer({"ok": True})

    @routes.get("/readyz")
    @probe
    async def readyz() -> Response:
        """Each thing this process needs, with its time; 503 unless all are well, and who is `behind`.

        A context that could not start is `left_out` and does not make the others unready."""
        nonlocal looking
        if looking is None or looking.done():
            looking = asyncio.create_task(checks(ctx))
        done = await asyncio.shield(looking)  # all who ask meanwhile share one look: probes are not rate-limited
        ok = all(check["ok"] for check in done)
        return answer({"ok": ok, "checks": done, "left_out": ctx.left_out}, 200 if ok else 503)

    @routes.get("/version")
    @probe
    async def version() -> Response:
        """What runs here, and for how long."""
        return answer(
            {
                "name": "ai-village",
                "version": ctx.version,
                "python": platform.python_version(),
                "uptime_s": round(time.monotonic() - started),
            }
        )

    @routes.get("/metrics")
    @allow("operator", loopback=True)
    async def metrics() -> Response:
        """Prometheus text; needs an operator unless the client is on this machine."""
        head, found = await consumers(ctx)
        lags = [(consumer.name, consumer.lag_events, consumer.lag_ms / 1_000) for consumer in found]
        collected = await ctx.in_query_thread(lambda: _collected(ctx), abandon=True)
        return Response(exposition(head, lags, *collected), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
