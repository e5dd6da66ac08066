"""Assignments: the work a device has to do, told the moment there is some."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog

from api.edge.context import ApiContext
from api.edge.feed import Feed

POLL_S = 2.0
"""The floor: a hint may get lost, the read model has the truth."""
SETTLE_S = 2.0
"""How long the read models are asked again after a hint; they follow the log within milliseconds."""
_FIRST_PAUSE_S = 0.01
_log = structlog.get_logger("api")

Row = Mapping[str, Any]


class Assignments:
    """Answers at once when there is work, else waits for some. One follower of the log serves all waiters.

    Args:
        query: the work of `%(device_id)s`, best first. A column `submitted` marks what it has done already.
        topic: of the events that give devices work.
        devices_of: the devices such an event gives work.
    """

    def __init__(self, ctx: ApiContext, query: str, topic: str, devices_of: Callable[[Any], Iterable[UUID]]) -> None:
        self._ctx, self._query, self._topic, self._devices_of = ctx, query, topic, devices_of
        self._waiting: dict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._follower: asyncio.Task[None] | None = None

    async def next(self, feed: Feed, device_id: UUID, wait_ms: int) -> Row | None:
        """What this device has to do, waiting up to `wait_ms` for something.

        When the wait is over: what it has done already (`submitted`), or None.
        """
        ends = time.monotonic() + wait_ms / 1_000
        hint = asyncio.Event()
        self._waiting[device_id].add(hint)
        try:
            found = await self._find(device_id)
            while not _is_work(found) and (left := ends - time.monotonic()) > 0 and not feed.ended:
                self._follow(feed)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, POLL_S)):
                        await hint.wait()
                found = await self._settled(device_id, ends) if hint.is_set() else await self._find(device_id)
                hint.clear()
            return found
        finally:
            self._waiting[device_id].discard(hint)
            if not self._waiting[device_id]:
                del self._waiting[device_id]

    async def _settled(self, device_id: UUID, ends: float) -> Row | None:
        """What there is once the read models have seen what the hint was about."""
        ends, pause = min(ends, time.monotonic() + SETTLE_S), _FIRST_PAUSE_S
        while True:
            found = await self._find(device_id)
            if _is_work(found) or time.monotonic() + pause > ends:
                return found
            await asyncio.sleep(pause)
            pause *= 1.5

    async def _find(self, device_id: UUID) -> Row | None:
        return await self._ctx.row(self._query, {"device_id": device_id})

    def _follow(self, feed: Feed) -> None:
        if self._follower is None or self._follower.done():
            self._follower = asyncio.create_task(self._hint(feed), name="assignments")

    async def _hint(self, feed: Feed) -> None:
        """Wake the devices that are given work; ends with the feed, or with a failure that the next wait mends."""
        try:
            async for record in feed.follow(topics=[self._topic]):
                for device_id in self._devices_of(record.fact().event):
                    for hint in self._waiting.get(device_id, ()):
                        hint.set()
        except Exception as error:
            _log.warning("assignments are not followed, devices are told by polling", error=type(error).__name__)


def _is_work(found: Row | None) -> bool:
    return found is not None and not found.get("submitted", False)
