"""Assignments: the round a device has to work on, told the moment it is selected."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import structlog

from api.edge.context import ApiContext
from api.edge.feed import Feed
from domain.federated_learning.round import OPEN, TrainingRound
from projections.federated_learning import ACCEPTED, REJECTED, SELECTED

POLL_S = 2.0
"""The floor: a hint may get lost, the read model has the truth."""
SETTLE_S = 2.0
"""How long the read models are asked again after a hint; they follow the log within milliseconds."""
_FIRST_PAUSE_S = 0.01
_SELECTED_TOPIC: Final[str] = TrainingRound.ParticipantsSelected.TOPIC  # type: ignore[attr-defined]

_ASSIGNED = f"""
SELECT r.round_id, r.session_id, r.number, r.base_model_hash AS model_hash, s.manifest, s.training, r.policy,
       r.deadline_at, p.state <> '{SELECTED}' AS submitted
FROM read.round_participants AS p
JOIN read.training_rounds AS r USING (round_id)
JOIN read.training_sessions AS s USING (session_id)
WHERE p.device_id = %(device_id)s AND p.state IN ('{SELECTED}', '{ACCEPTED}', '{REJECTED}')
  AND r.state = '{OPEN}' AND r.deadline_at > now()
ORDER BY submitted, r.deadline_at, r.round_id
LIMIT 1
"""
_log = structlog.get_logger("api")


class Assignments:
    """Answers at once when there is work, else waits for a selection. One follower of the log serves all waiters."""

    def __init__(self, ctx: ApiContext) -> None:
        self._ctx = ctx
        self._waiting: dict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._follower: asyncio.Task[None] | None = None

    async def next(self, feed: Feed, device_id: UUID, wait_ms: int) -> Mapping[str, Any] | None:
        """The round this device has to work on, waiting up to `wait_ms` for one.

        When the wait is over: the open round whose update it has sent already (`submitted`), or None.
        """
        ends = time.monotonic() + wait_ms / 1_000
        hint = asyncio.Event()
        self._waiting[device_id].add(hint)
        try:
            found = await self._find(device_id)
            while (found is None or found["submitted"]) and (left := ends - time.monotonic()) > 0 and not feed.ended:
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

    async def _settled(self, device_id: UUID, ends: float) -> Mapping[str, Any] | None:
        """What there is once the read models have seen the selection."""
        ends, pause = min(ends, time.monotonic() + SETTLE_S), _FIRST_PAUSE_S
        while True:
            found = await self._find(device_id)
            if (found is not None and not found["submitted"]) or time.monotonic() + pause > ends:
                return found
            await asyncio.sleep(pause)
            pause *= 1.5

    async def _find(self, device_id: UUID) -> Mapping[str, Any] | None:
        return await self._ctx.row(_ASSIGNED, {"device_id": device_id})

    def _follow(self, feed: Feed) -> None:
        if self._follower is None or self._follower.done():
            self._follower = asyncio.create_task(self._hint(feed), name="assignments")

    async def _hint(self, feed: Feed) -> None:
        """Wake the devices a round has selected; ends with the feed, or with a failure that the next wait mends."""
        try:
            async for record in feed.follow(topics=[_SELECTED_TOPIC]):
                for device_id in record.fact().event.device_ids:
                    for hint in self._waiting.get(device_id, ()):
                        hint.set()
        except Exception as error:
            _log.warning("selections are not followed, devices are told by polling", error=type(error).__name__)
