"""The part of the demo in which a volunteer spends what its device has earned: on a burst, and on one contract more.

The burst is over both devices of the seller, and done in full. In the contract after it the devices are stopped while
there is a job to do, and its SLA window is judged by what the log knows of the jobs.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from cli.console import Console
from cli.demo_progress import DemoFailed, nodes

T = TypeVar("T")

SERVICE = "compute_burst"
REGION = "market"
SOLD = 2
BOUGHT_MS = 6_000
PRICE_GRAINS_PER_HOUR = 1_000_000
PRICE_GRAINS = -(-BOUGHT_MS * PRICE_GRAINS_PER_HOUR // 3_600_000)
JOB = {"seed": 1, "start": 0, "count": 2_000_000, "difficulty_bits": 64}
STOPPED_S = 4.0
WAIT_S = 240.0
POLL_S = 0.25
SLA = {"uptime_bp": 9_990, "p95_ms": 5_000, "max_interrupts_per_h": 10, "window_ms": 60_000, "penalty_bp": 0}

_WALLET = "query($owner: UUID!) { wallet(ownerId: $owner) { availableGrains } }"
_BURST = "query($id: UUID!) { burst(burstId: $id) { state reason } }"
_CONTRACT = "query($id: UUID!) { contract(contractId: $id) { state reason startedAt endedAt } }"
_JOBS = """query($id: UUID!) { jobs(contractId: $id, first: 100) {
    edges { node { jobId state reason submittedAt endedAt usedMs } } } }"""


@dataclass(frozen=True)
class Market:
    """Who trades, each by its own token; `stopping` ends every wait."""

    operator: Console
    provider: Console
    customer: Console
    customer_id: UUID
    device_ids: Sequence[UUID]
    seller: subprocess.Popen[bytes]
    stopping: threading.Event

    def trade(self) -> None:
        """Sell and buy, until every contract is settled. Raises DemoFailed or VillageError."""
        for device_id in self.device_ids:
            self._offer(device_id)
        together = self._burst()
        self._worked(*together)
        for contract_id in together:
            self._accept(contract_id)
            self._settled(contract_id)
        alone = self._bought()
        self._worked(alone)
        with _stopped(self.seller):
            self._submit(alone)
            self._pause(STOPPED_S)
            self._accept(alone)
        self._settled(alone)

    def _offer(self, device_id: UUID) -> None:
        self._command(
            self.provider, "create_service_offering",
            offering_id=str(uuid4()), device_id=str(device_id), service_type=SERVICE, region=REGION, capacity=1,
            resources={"ram_mb": 256, "cpu_cores": 1, "compute_score": 0}, sla=SLA,
            price_grains_per_hour=str(PRICE_GRAINS_PER_HOUR), valid_until=_in(timedelta(hours=1)),
        )  # fmt: skip

    def _burst(self) -> list[str]:
        """Buy of all devices at once; answers the active contracts."""
        number = len(self.device_ids)
        self._wait("the customer has earned the price of a burst", lambda: self._solvent(number))
        self._wait("the devices serve the wish", lambda: len(self._matched(_wish())) == number)
        burst_id = str(uuid4())
        receipt = self._command(
            self.customer, "allocate_compute_burst", burst_id=burst_id, nodes=number, region=REGION, **_wish(number)
        )
        self._wait("the burst is allocated", lambda: self._allocated(burst_id))
        return [str(node["contract_id"]) for node in receipt["nodes"]]

    def _allocated(self, burst_id: str) -> bool:
        found = self.customer.query(_BURST, id=burst_id)["burst"]
        if found is not None and found["state"] == "refused":
            raise DemoFailed(f"the burst was refused: {found['reason']}")
        return found is not None and found["state"] == "allocated"

    def _bought(self) -> str:
        """Match and propose, once the customer can pay it; answers the active contract."""
        self._wait("the customer has earned the price", self._solvent)
        wish = _wish()
        offering_id = self._wait("an offering serves the wish", lambda: self._matched(wish))[0]
        bought = {name: wish[name] for name in ("units", "duration_ms", "deadline_at", "max_price_grains")}
        contract_id = str(uuid4())
        self._command(self.customer, "propose_contract", contract_id=contract_id, offering_id=offering_id, **bought)
        self._wait("the contract is active", lambda: self._contract(contract_id, "active"))
        return contract_id

    def _solvent(self, devices: int = 1) -> bool:
        wallet = self.customer.query(_WALLET, owner=str(self.customer_id))["wallet"]
        return wallet is not None and int(wallet["availableGrains"]) >= devices * PRICE_GRAINS

    def _matched(self, wish: Mapping[str, Any]) -> list[str]:
        """The offerings that serve a wish, best first."""
        receipt = self._command(self.customer, "match_service_request", request_id=str(uuid4()), region=REGION, **wish)
        return [str(one["offering_id"]) for one in receipt["candidates"]]

    def _contract(self, contract_id: str, state: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.customer.query(_CONTRACT, id=contract_id)["contract"]
        if found is not None and found["state"] == "settled" and state == "active":
            raise DemoFailed(f"the contract was called off: {found['reason']}")
        return found if found is not None and found["state"] == state else None

    def _submit(self, contract_id: str) -> str:
        job_id, limit_ms = str(uuid4()), BOUGHT_MS - sum(int(job["usedMs"]) for job in self._jobs(contract_id))
        self._command(
            self.customer, "submit_job", job_id=job_id, contract_id=contract_id, job_type="hash_search", parameters=JOB,
            limits={"cpu_ms": limit_ms, "wall_ms": 60_000, "memory_mb": 256},
        )  # fmt: skip
        return job_id

    def _worked(self, *contract_ids: str) -> None:
        """A job under each, side by side."""
        given = [(contract_id, self._submit(contract_id)) for contract_id in contract_ids]
        self._wait("the jobs have ended", lambda: all(self._done(*one) for one in given))

    def _done(self, contract_id: str, job_id: str) -> bool:
        job = next((one for one in self._jobs(contract_id) if one["jobId"] == job_id), None)
        if job is not None and job["state"] not in ("open", "succeeded"):
            raise DemoFailed(f"the job has {job['state']}: {job['reason']}")
        return job is not None and job["state"] == "succeeded"

    def _jobs(self, contract_id: str) -> Sequence[Mapping[str, Any]]:
        return nodes(self.customer.query(_JOBS, id=contract_id)["jobs"])

    def _settled(self, contract_id: str) -> None:
        """The operator judges the one window, with the jobs as its evidence."""
        self._wait("every job is over", lambda: all(job["state"] != "open" for job in self._jobs(contract_id)))
        ended = self._wait("the contract has ended", lambda: self._contract(contract_id, "completed"))
        began, ends = (datetime.fromisoformat(ended[name]) for name in ("startedAt", "endedAt"))
        jobs = sorted(self._jobs(contract_id), key=lambda job: str(job["submittedAt"]))
        evidence_hash = self.operator.put_blob(json.dumps(jobs, sort_keys=True).encode())
        whole_ms, degraded_ms = _ms(began, ends), unanswered_ms(jobs, ends)
        self._command(
            self.operator, "evaluate_sla_window", contract_id=contract_id, window=0, evidence_hash=evidence_hash,
            ok_ms=whole_ms - degraded_ms, degraded_ms=degraded_ms, unknown_ms=0, excluded_ms=0,
        )  # fmt: skip
        self._wait("the contract is settled", lambda: self._contract(contract_id, "settled"))

    def _accept(self, contract_id: str) -> None:
        """Take what was delivered as all of it."""
        self._command(self.customer, "complete_contract", contract_id=contract_id)

    def _command(self, console: Console, name: str, **body: Any) -> Mapping[str, Any]:
        return console.command(f"/v1/marketplace/{name}", body)

    def _wait(self, what: str, found: Callable[[], T | None]) -> T:
        ends = time.monotonic() + WAIT_S
        while not (answer := found()):
            if time.monotonic() > ends:
                raise DemoFailed(f"not in {WAIT_S:.0f} s: {what}")
            self._pause(POLL_S)
        return answer

    def _pause(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            raise DemoFailed("the demo was asked to stop")


def _wish(devices: int = 1) -> dict[str, Any]:
    return {
        "service_type": SERVICE, "units": 1, "duration_ms": BOUGHT_MS, "deadline_at": _in(timedelta(minutes=30)),
        "max_price_grains": str(devices * PRICE_GRAINS),
    }  # fmt: skip


def unanswered_ms(jobs: Sequence[Mapping[str, Any]], until: datetime) -> int:
    """How long before `until` the first job waited that was never done, in ms."""
    waiting = [datetime.fromisoformat(job["submittedAt"]) for job in jobs if job["state"] == "cancelled"]
    return _ms(min(waiting), until) if waiting else 0


def _ms(begins: datetime, ends: datetime) -> int:
    return (ends - begins) // timedelta(milliseconds=1)


def _in(time_from_now: timedelta) -> str:
    return (datetime.now(UTC) + time_from_now).isoformat()


@contextmanager
def _stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """With a process that stands still."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)
