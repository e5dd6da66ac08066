"""One device at work: it enrols, sends heartbeats, and takes part in round after round."""

import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NoReturn, TypeVar
from uuid import UUID, uuid4

import httpx2
import structlog

from domain.device_registry.evidence import Evidence
from domain.marketplace.work import JobInvalid, OrderForged
from infrastructure.http_signatures import DeviceAuth
from workers.device_agent.benchmarks import measure_evidence, signed
from workers.device_agent.capabilities import differs
from workers.device_agent.client import ApiRefused, ApiUnavailable, RetryPolicy, VillageClient
from workers.device_agent.data import Dataset
from workers.device_agent.duty import Brake
from workers.device_agent.enrolment import Applicant, enrol
from workers.device_agent.harvest import Harvest, HarvestOptions
from workers.device_agent.jobs.runner import Jobs
from workers.device_agent.participation import Participation
from workers.device_agent.state import Capabilities, DeviceState, Identity

T = TypeVar("T")

_FATAL_STATUS = frozenset({401, 403})
_FATAL_IN_A_ROW = 8
_SUSPENDED = "device_suspended"  # may end any time
_LATENCIES_KEPT = 5
_MIN_POLL_S = 0.25
_LENDING_POLL_S = 1.0
_MAX_FAILURES_COUNTED = 10
_EVIDENCE_LASTS = timedelta(days=7)


class DeviceRejected(Exception):
    """The village does not know this device, or no longer wants it: trying again changes nothing."""


@dataclass(frozen=True)
class AgentSettings:
    """How a device behaves towards its village."""

    api_url: str
    heartbeat_s: float = 10.0
    evidence_poll_s: float = 300.0
    wait_ms: int = 20_000
    jobs: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)


class DeviceAgent:
    """One device of a process. `executor` is where training runs: one thread for all devices of the process.

    With `harvest` it lends itself under a policy, and trains only while that lets it. Without a `dataset` it never
    trains, and says so: it offers no framework.
    """

    def __init__(
        self,
        settings: AgentSettings,
        state: DeviceState,
        dataset: Dataset | None,
        http: httpx2.AsyncClient,
        executor: Executor,
        capabilities: Capabilities,
        evidence: Evidence,
        harvest: HarvestOptions | None = None,
    ) -> None:
        self._settings, self._state, self._dataset = settings, state, dataset
        self._http, self._executor = http, executor
        self._take(capabilities, evidence)
        self._lends = harvest
        self._harvest: Harvest | None = None
        self._stopped = threading.Event()
        self._latencies: list[int] = []
        self._log = structlog.get_logger("device_agent").bind(device=state.folder.name)

    async def run(self, applicant: Applicant | None) -> NoReturn:
        """Work until cancelled. `applicant` is needed until the device is enrolled.

        Raises DeviceRejected when the village refuses the device itself.
        """
        identity = await self._enrolled(applicant)
        client = self._client(identity.device_id)
        try:
            # The first beat comes before the first poll: only a device that is online is selected.
            await self._until_done(lambda: self._beat(client))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._for_ever(lambda: self._beat_and_pause(client)))
                tasks.create_task(self._for_ever(lambda: self._pause_and_measure(identity.device_id, client)))
                if self._dataset is not None:
                    work = Participation(
                        identity.device_id, client, self._state, self._dataset, self._executor,
                        Brake(self._duty, self._stopped.is_set), self._log,
                    )  # fmt: skip
                    tasks.create_task(self._for_ever(lambda: self._poll(client, work)))
                if self._settings.jobs:
                    jobs = Jobs(identity.device_id, client, self._state, self._log, self._duty)
                    tasks.create_task(self._for_ever(lambda: self._work(jobs)))
                if self._lends is not None:
                    self._harvest = self._lends.harvest(client)
                    tasks.create_task(self._harvest.run())
        except* DeviceRejected as group:
            raise DeviceRejected(str(group.exceptions[0])) from group
        finally:
            self._stopped.set()
        raise AssertionError("the tasks end only by an exception")

    async def _enrolled(self, applicant: Applicant | None) -> Identity:
        known = self._state.identity
        if known is None:
            if applicant is None:
                raise DeviceRejected("this device is not enrolled yet: it needs a claim code")
            known = await self._until_done(lambda: self._enrol(applicant))
        if known.api_url != self._settings.api_url:
            self._log.info("the village has moved", api_url=self._settings.api_url)
        if differs(known.capabilities, self._capabilities) or _old(known.measured_at):
            return await self._until_done(lambda: self._tell_capabilities(known.device_id))
        return known

    async def _enrol(self, applicant: Applicant) -> Identity:
        stranger, member = VillageClient(self._http, None, self._settings.retry), self._client(applicant.device_id)
        try:
            device_id = await enrol(applicant, self._state, stranger, member, self._capabilities)
        except ApiRefused as refused:
            raise DeviceRejected(f"enrolment was refused: {refused}") from refused
        self._log.info("enrolled", device_id=str(device_id))
        return await self._keep(device_id, None)

    async def _tell_capabilities(self, device_id: UUID) -> Identity:
        evidence = signed(self._evidence, device_id, self._state.signing_key)
        body = {"capabilities": self._capabilities, "evidence": evidence}
        path = "/v1/device_registry/update_capabilities"
        try:
            await self._client(device_id).command(path, body, f"capabilities-{uuid4()}")
        except ApiRefused as refused:
            if refused.status in _FATAL_STATUS:
                raise
            self._log.warning("the village keeps the capabilities it knows", why=str(refused))
        return await self._keep(device_id, self._evidence.measured_at)

    async def _pause_and_measure(self, device_id: UUID, client: VillageClient) -> None:
        """Measure again if the village wants that, between two trainings and never beside one."""
        await asyncio.sleep(self._settings.evidence_poll_s)
        answer = await client.query("/v1/device_registry/remeasurement") if self._may_work() else None
        if answer is not None and answer.get("wanted") is True:
            loop = asyncio.get_running_loop()
            self._take(*await loop.run_in_executor(self._executor, measure_evidence, self._state.folder))
            await self._tell_capabilities(device_id)
            self._log.info("measured again", until=answer.get("until"))

    def _take(self, capabilities: Capabilities, evidence: Evidence) -> None:
        self._capabilities = capabilities if self._dataset is not None else {**capabilities, "frameworks": []}
        self._evidence = evidence

    async def _keep(self, device_id: UUID, measured_at: datetime | None) -> Identity:
        identity = Identity(device_id, self._settings.api_url, self._capabilities, measured_at)
        await asyncio.to_thread(self._state.enrolled, identity)
        return identity

    def _client(self, device_id: UUID) -> VillageClient:
        return VillageClient(self._http, DeviceAuth(device_id, self._state.signing_key), self._settings.retry)

    async def _beat(self, client: VillageClient) -> None:
        sequence = await asyncio.to_thread(self._state.next_sequence)
        known = round(statistics.median(self._latencies)) if self._latencies else None
        self._latencies.append(await client.beat(sequence, known))
        del self._latencies[:-_LATENCIES_KEPT]

    async def _beat_and_pause(self, client: VillageClient) -> None:
        await asyncio.sleep(self._settings.heartbeat_s)
        await self._beat(client)

    async def _poll(self, client: VillageClient, work: Participation) -> None:
        started = time.monotonic()
        if not self._may_work():
            await asyncio.sleep(_LENDING_POLL_S)
            return
        assignment = await client.assignment(self._settings.wait_ms)
        if assignment is None or not await work.take_part(assignment):
            # A village that answers at once must not be asked without pause.
            await asyncio.sleep(max(0.0, _MIN_POLL_S - (time.monotonic() - started)))

    def _may_work(self) -> bool:
        """Whether its policy lets it work, if it lends itself."""
        return self._duty() > 0

    def _duty(self) -> float:
        """The share of its time that its policy lets it work, if it lends itself."""
        if self._lends is None:
            return 1.0
        return 0.0 if self._harvest is None else self._harvest.duty

    async def _work(self, jobs: Jobs) -> None:
        if not self._may_work():
            await asyncio.sleep(_LENDING_POLL_S)
            return
        try:
            worked = await jobs.work(self._settings.wait_ms)
        except (OrderForged, JobInvalid, ValueError) as unfit:
            self._log.error("an order this device does not work on", why=str(unfit))
            worked = False
        if not worked:
            await asyncio.sleep(_MIN_POLL_S)

    async def _for_ever(self, step: Callable[[], Awaitable[None]]) -> NoReturn:
        while True:
            await self._until_done(step)

    async def _until_done(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do one step, again and again with growing pauses while the village is away."""
        failures = refusals = 0
        while True:
            try:
                return await step()
            except ApiUnavailable as error:
                refusals, why = 0, str(error)
            except ApiRefused as refused:
                fatal = refused.status in _FATAL_STATUS and refused.code != _SUSPENDED
                refusals, why = (refusals + 1 if fatal else 0), str(refused)
                if refusals == _FATAL_IN_A_ROW:
                    raise DeviceRejected(why) from refused
            self._log.warning("the village did not help, trying again", why=why)
            await asyncio.sleep(self._settings.retry.pause_s(failures, None))
            failures = min(failures + 1, _MAX_FAILURES_COUNTED)


def _old(measured_at: datetime | None) -> bool:
    """Whether the village should get new evidence."""
    return measured_at is None or datetime.now(UTC) - measured_at > _EVIDENCE_LASTS
