"""A device's jobs, one after the other: check the order, fetch the inputs, run, report, and hand in the result."""

import asyncio
import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from structlog.typing import FilteringBoundLogger

from domain.marketplace.job import FAILED, SUCCEEDED
from domain.marketplace.work import JobOrder, opened_order
from workers.device_agent.assignment import MAX_MODEL_BYTES
from workers.device_agent.client import ApiRefused, VillageClient
from workers.device_agent.duty import Duty, on_duty
from workers.device_agent.jobs.confinement import enforced
from workers.device_agent.jobs.sandbox import Ending, Sandbox
from workers.device_agent.state import DeviceState, write_private

REPORT_S = 2.0
"""Between reports of a job that runs."""
_WATCH_S = 0.05
_PATH = "/v1/marketplace"
_KEY = "village_jobs.key"


class Jobs:
    """Works for one device. A job that was cut off is done again from its start, and is not paid twice for that.

    The village's key is pinned in the device's folder when it is first asked for. While the device is off duty, the
    job stands still.
    """

    def __init__(
        self,
        device_id: UUID,
        client: VillageClient,
        state: DeviceState,
        log: FilteringBoundLogger,
        duty: Duty = lambda: 1.0,
    ) -> None:
        self._device_id, self._client, self._state, self._log = device_id, client, state, log
        self._duty = duty
        self._folder = state.folder / "jobs"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        log.info("jobs are confined", **enforced())

    async def work(self, wait_ms: int) -> bool:
        """Do the next job; answers whether there was one. Raises ApiUnavailable, ApiRefused, OrderForged."""
        found = await self._client.query(f"{_PATH}/job_order?wait_ms={wait_ms}", wait_ms)
        if found is None:
            return False
        order = opened_order(await self._village_key(), str(found.get("order", "")), str(found.get("signature", "")))
        if order.device_id != self._device_id:
            raise ApiRefused(401, "order_forged", "an order for another device")
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            ending = await self._done(order, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if ending is not None:
            await self._hand_in(order, ending)
        return True

    async def _done(self, order: JobOrder, folder: Path) -> Ending | None:
        """How the job ended; None when nobody wants it any more."""
        try:
            for name, sha256 in order.spec.inputs.items():
                await self._client.fetch_blob(sha256, folder / name, MAX_MODEL_BYTES)
        except ApiRefused as refused:
            if refused.status != 404:
                raise
            return Ending(FAILED, "unfit", 0, 0)
        sandbox = Sandbox(order.spec, folder)  # from this thread: the job dies with it
        try:
            return await self._watched(order, sandbox)
        finally:
            sandbox.close()

    async def _watched(self, order: JobOrder, sandbox: Sandbox) -> Ending | None:
        """Reports go beside the watch: a village that does not answer must not keep the job from standing still."""
        reported, report = time.monotonic(), None
        try:
            while (ending := sandbox.poll()) is None:
                sandbox.rest(resting=not on_duty(self._duty(), time.monotonic()))
                await asyncio.sleep(_WATCH_S)
                if report is not None and report.done():
                    if not report.result():
                        return None
                    reported, report = time.monotonic(), None
                if report is None and time.monotonic() - reported >= REPORT_S:
                    report = asyncio.create_task(self._report(order, sandbox.used_ms))
            return ending
        finally:
            if report is not None:
                report.cancel()
                await asyncio.wait([report])

    async def _report(self, order: JobOrder, used_ms: int) -> bool:
        """Say what the job has used; whether it is still wanted."""
        body = {"job_id": str(order.job_id), "cumulative_ms": used_ms}
        answer = await self._client.command(f"{_PATH}/report_job_usage", body, f"job-{uuid4()}")
        return bool(answer.get("wanted", False))

    async def _hand_in(self, order: JobOrder, ending: Ending) -> None:
        body = {
            "job_id": str(order.job_id),
            "outcome": ending.outcome,
            "reason": ending.reason,
            "cumulative_ms": ending.used_ms,
            "wall_ms": ending.wall_ms,
        }
        if ending.outcome == SUCCEEDED:
            body["result_hash"] = await self._upload(ending.result or b"")
        await self._client.command(f"{_PATH}/end_job", body, f"job-end-{order.job_id}-{ending.used_ms}")
        self._log.info(
            "job ended", job=str(order.job_id), kind=order.spec.job_type, used_ms=ending.used_ms,
            outcome=ending.reason or ending.outcome,
        )  # fmt: skip

    async def _upload(self, result: bytes) -> str:
        digest = hashlib.sha256(result).hexdigest()
        file = self._folder / digest
        await asyncio.to_thread(write_private, file, result)
        try:
            await self._client.put_blob(digest, file)
        finally:
            file.unlink(missing_ok=True)
        return digest

    async def _village_key(self) -> Ed25519PublicKey:
        path = self._state.folder / _KEY
        if not path.exists():
            key = bytes.fromhex(str((await self._client.query(f"{_PATH}/job_key") or {}).get("public_key", "")))
            write_private(path, Ed25519PublicKey.from_public_bytes(key).public_bytes_raw().hex().encode())
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(path.read_text()))
