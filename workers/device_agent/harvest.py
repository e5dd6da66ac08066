"""A device lends itself: it measures every 5 s, obeys its policy whether or not the village answers, and tells it.

What the device may do is the stricter of what it decides itself, by the policy that was agreed when the session began,
and what the village last said.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import structlog

from domain.harvest.audit import Job, answer_of
from domain.harvest.contribution import BASIS
from domain.harvest.decide import FLAPPING_WITHIN, Watch, clear_of, step
from domain.harvest.policy import HarvestPolicy, stricter
from domain.harvest.sample import MAX_AGE, MAX_BATCH, SAMPLE_EVERY, Sample
from domain.harvest.states import ACTIVE, ADMITTED, CLOSED, STOPPING
from workers.device_agent.client import ApiRefused, ApiUnavailable, VillageClient
from workers.device_agent.sensors import MachineSensors, Sensors, TraceSensors, utc_now

MAX_BUFFERED = int(MAX_AGE / SAMPLE_EVERY)
SEND_EVERY_S = 10.0
MAX_AUDIT_ROUNDS = 2_000_000
_PATH = "/v1/harvest"
_OVER = frozenset({"harvest_session_over", "harvest_session_unknown"})
_DROPPED = frozenset(
    {"samples_replayed", "sample_too_old", "sample_impossible", "sample_in_future", "samples_out_of_order"}
)


@dataclass(frozen=True)
class HarvestOptions:
    """What the owner has asked for. `given` are the policy's fields that were said; the village sets the others."""

    given: Mapping[str, Any] = field(default_factory=dict)
    trace: Path | None = None
    metered: bool = False
    sample_s: float = SAMPLE_EVERY.total_seconds()
    send_s: float = SEND_EVERY_S

    @property
    def policy(self) -> HarvestPolicy:
        """What the device itself obeys. Raises ValueError (an unknown field, or a value of another type)."""
        asked = msgspec.convert(dict(self.given), HarvestPolicy)
        if "resume_battery_percent" in self.given:
            return asked
        resume = max(asked.resume_battery_percent, asked.min_battery_percent)
        return msgspec.structs.replace(asked, resume_battery_percent=resume)

    def under(self, agreed: object) -> HarvestPolicy:
        """What the device obeys in a session: what the village has agreed to, and in any case what was said here.

        A village that says nothing of it leaves the device to its own. Raises ValueError.
        """
        own = self.policy
        if agreed is None:
            return own
        told = msgspec.convert(agreed, HarvestPolicy)
        return stricter(told, msgspec.structs.replace(told, **{name: getattr(own, name) for name in self.given}))

    def harvest(self, client: VillageClient) -> "Harvest":
        """A device that lends itself so."""
        sensors = MachineSensors(metered=self.metered) if self.trace is None else TraceSensors(self.trace)
        return Harvest(client, sensors, self)


class Harvest:
    """One device's harvest, session after session; all of it on one event loop."""

    def __init__(
        self,
        client: VillageClient,
        sensors: Sensors,
        options: HarvestOptions,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client, self._sensors, self._options = client, sensors, options
        self._policy, self._clock = options.policy, clock
        self._session_id: UUID | None = None
        self._watch = Watch()
        self._told = ADMITTED
        self._buffer: deque[Sample] = deque(maxlen=MAX_BUFFERED)
        self._sequence = 0
        self._sending = asyncio.Lock()
        self._rests_until: datetime | None = None
        self._ended = False
        self._log = structlog.get_logger("device_agent")

    @property
    def may_work(self) -> bool:
        """Whether the device lends itself right now."""
        return self._session_id is not None and self._watch.status in ACTIVE and self._told in (*ACTIVE, ADMITTED)

    @property
    def duty(self) -> float:
        """The share of its time that it lends itself right now: next to none where it is hot, 0 where it pauses."""
        return max(1, self._watch.duty_bp) / BASIS if self.may_work else 0.0

    async def run(self) -> None:
        """Lend the device until it is cancelled, or its sensors have nothing more to say."""
        sending = asyncio.create_task(self._send_for_ever())
        try:
            await self._measure_on()
            await self._sent()
        finally:
            sending.cancel()
            await self._stop()

    async def _measure_on(self) -> None:
        while True:
            if not self._measure():
                return
            await asyncio.sleep(self._options.sample_s)

    def _measure(self) -> bool:
        """Take one sample and obey it; False when there is none."""
        found = self._sensors.read()
        if found is None:
            return False
        self._sequence += 1
        sample = found.sample(self._sequence, self._clock())
        self._buffer.append(sample)
        if self._session_id is None:
            return True
        before = self._watch.status
        self._watch, transition = step(self._policy, self._watch, sample)
        if transition is not None:
            why = msgspec.to_builtins(transition.reading)
            self._log.info("harvest", was=before, now=transition.to, **why)
        return True

    async def _send_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._options.send_s)
            await self._sent()

    async def _sent(self) -> None:
        """Open a session if there is none and the device is fit for one, and tell what was measured since."""
        try:
            async with self._sending:
                await self._tell()
        except ApiUnavailable as error:
            self._log.warning("samples are kept: the village did not answer", why=str(error), kept=len(self._buffer))
        except ApiRefused as refused:
            self._log.warning("the village refused", why=str(refused))
        except (ValueError, KeyError) as error:
            self._log.warning("the village's answer makes no sense", why=str(error))

    async def _tell(self) -> None:
        if self._session_id is None and not await self._open():
            return
        while self._buffer and self._session_id is not None:
            await self._send(self._session_id)
        if self._told == STOPPING:
            self._ended = True
            await self._stop()

    async def _open(self) -> bool:
        newest = self._buffer[-1] if self._buffer else None
        rests = self._ended or (self._rests_until is not None and self._clock() < self._rests_until)
        if rests or newest is None or clear_of(self._policy, newest) is not None:
            self._buffer.clear()  # of no session
            return False
        body = {"policy": self._options.given, "sensors": await asyncio.to_thread(self._sensors.names)}
        try:
            answer = await self._client.command(f"{_PATH}/start_harvest_session", body, f"harvest-{uuid4()}")
        except ApiRefused as refused:
            if refused.code == "session_overlaps" and (open_id := _session_in(refused.detail)) is not None:
                self._log.info("an earlier session is still open, and is stopped")
                await self._stop_session(open_id)
                return False
            raise
        if answer.get("status") != ADMITTED:
            self._log.error("the village did not admit this device: a sensor that its policy needs is missing")
            return False
        self._session_id = UUID(str(answer["id"]))
        self._told, self._watch = ADMITTED, Watch()
        self._policy = self._options.under(answer.get("policy"))
        self._buffer.clear()
        self._log.info("harvest session opened", session_id=str(self._session_id))
        if (audit := answer.get("audit")) is not None:
            await self._answer(self._session_id, msgspec.convert(audit, Job))
        return True

    async def _answer(self, session_id: UUID, job: Job) -> None:
        if job.rounds > MAX_AUDIT_ROUNDS:
            self._log.error("an audit of too many rounds is not worked on", rounds=job.rounds)
            return
        given = await asyncio.to_thread(partial(answer_of, job))
        body = {"session_id": str(session_id), "answer": given}
        await self._client.command(f"{_PATH}/answer_audit", body, f"audit-{session_id}")

    async def _send(self, session_id: UUID) -> None:
        batch = list(self._buffer)[:MAX_BATCH]
        body = {"session_id": str(session_id), "samples": [_told(sample) for sample in batch]}
        try:
            answer = await self._client.command(f"{_PATH}/send_samples", body, f"samples-{batch[0].sequence}")
            self._hear(str(answer.get("status")))
        except ApiRefused as refused:
            if refused.code in _OVER:
                self._hear(CLOSED)
            elif refused.code in _DROPPED:
                self._log.warning("samples are dropped", why=str(refused), number=len(batch))
            else:
                raise
        while self._buffer and self._buffer[0].sequence <= batch[-1].sequence:
            self._buffer.popleft()

    def _hear(self, status: str) -> None:
        """What the village says of the session; where it does not run there, it does not run here."""
        if status != self._told:
            self._log.info("the village says", session=status)
        self._told = status
        if status == CLOSED:
            self._session_id, self._policy = None, self._options.policy
            self._rests_until = self._clock() + FLAPPING_WITHIN
            self._buffer.clear()

    async def _stop(self) -> None:
        if self._session_id is not None:
            try:
                await asyncio.wait_for(self._stop_session(self._session_id), 5)
            except (ApiRefused, ApiUnavailable, TimeoutError) as error:
                self._log.warning("the village was not told of the end, and will notice", why=str(error))
            self._session_id = None

    async def _stop_session(self, session_id: UUID) -> None:
        body = {"session_id": str(session_id)}
        await self._client.command(f"{_PATH}/stop_harvest_session", body, f"stop-{session_id}")
        self._log.info("harvest session stopped", session_id=str(session_id))


def _told(sample: Sample) -> dict[str, Any]:
    known: dict[str, Any] = msgspec.to_builtins(sample)
    return {name: value for name, value in known.items() if value is not None}


def _session_in(detail: str) -> UUID | None:
    """The session that a refusal names: `session ID is open`."""
    words = detail.split()
    try:
        return UUID(words[words.index("session") + 1])
    except (ValueError, IndexError):
        return None
