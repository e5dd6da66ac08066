"""The part of the demo in which a volunteer spends what its device has earned: two contracts over a seller's device.

The first is done in full. In the second the device is stopped while it has a job to do, and its SLA window is judged
by what the log knows of the jobs.
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
BOUGHT_MS = 6_000
PRICE_GRAINS_PER_HOUR = 1_000_000
PRICE_GRAINS = -(-BOUGHT_MS * PRICE_GRAINS_PER_HOUR // 3_600_000)
JOB = {"seed": 1, "start": 0, "count": 2_000_000, "difficulty_bits": 64}
STOPPED_S = 4.0
WAIT_S = 240.0
POLL_S = 0.25
SLA = {"uptime_bp": 9_990, "p95_ms": 5_000, "max_interrupts_per_h": 10, "window_ms": 60_000, "penalty_bp": 0}

_WALLET = "query($owner: UUID!) { wallet(ownerId: $owner) { availableGrains } }"
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
    device_id: UUID
    seller: subprocess.Popen[bytes]
    stopping: threading.Event

    def trade(self) -> None:
        """Sell and buy, until two contracts are settled. Raises DemoFailed or VillageError."""
        self._offer()
        first = self._bought()
        self._worked(first)
        self._accept(first)
        self._settled(first)
        second = self._bought()
        self._worked(second)
        with _stopped(self.seller):
            self._submit(second)
            self._pause(STOPPED_S)
            self._accept(second)
        self._settled(second)

    def _offer(self) -> None:
        self._command(
            self.provider, "create_service_offering",
            offering_id=str(uuid4()), device_id=str(self.device_id), service_type=SERVICE, region=REGION, capacity=1,
            resources={"ram_mb": 256, "cpu_cores": 1, "compute_score": 0}, sla=SLA,
            price_grains_per_hour=str(PRICE_GRAINS_PER_HOUR), valid_until=_in(timedelta(hours=1)),
        )  # fmt: skip

    def _bought(self) -> str:
        """Match and propose, once the customer can pay it; answers the active contract."""
        self._wait("the customer has earned the price", self._solvent)
        wish = {
            "service_type": SERVICE, "units": 1, "duration_ms": BOUGHT_MS, "deadline_at": _in(timedelta(minutes=30)),
            "max_price_grains": str(PRICE_GRAINS),
        }  # fmt: skip
        offering_id = self._wait("an offering serves the wish", lambda: self._matched(wish))
        bought = {name: wish[name] for name in ("units", "duration_ms", "deadline_at", "max_price_grains")}
        contract_id = str(uuid4())
        self._command(self.customer, "propose_contract", contract_id=contract_id, offering_id=offering_id, **bought)
        self._wait("the contract is active", lambda: self._contract(contract_id, "active"))
        return contract_id

    def _solvent(self) -> bool:
        wallet = self.customer.query(_WALLET, owner=str(self.customer_id))["wallet"]
        return wallet is not None and int(wallet["availableGrains"]) >= PRICE_GRAINS

    def _matched(self, wish: Mapping[str, Any]) -> str | None:
        receipt = self._command(self.customer, "match_service_request", request_id=str(uuid4()), region=REGION, **wish)
        winner: str | None = receipt["winner"]
        return winner

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

    def _worked(self, contract_id: str) -> None:
        job_id = self._submit(contract_id)
        self._wait("the job has ended", lambda: self._done(contract_id, job_id))

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
