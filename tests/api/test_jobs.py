"""A job is bought by its customer over HTTP, done by a real device agent, and paid by the millisecond."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from api import blobs, device_registry, federated_learning, marketplace
from api.app import create_app
from api.server import listen, server
from cli.edge_ports import EnrolledDevices
from infrastructure.database import Database
from tests.api.office import Office
from tests.api.stall import Stall

ROOT = Path(__file__).resolve().parents[2]
JOB = "query($id: UUID!, $at: AsOf) { job(jobId: $id, asOf: $at) { state reason usedMs wallMs resultHash jobType } }"
LIMITS = {"cpu_ms": 40_000, "wall_ms": 600_000, "memory_mb": 512}
SEARCH = {
    "job_type": "hash_search",
    "parameters": {"seed": 1, "start": 0, "count": 1 << 20, "difficulty_bits": 12},
    "limits": LIMITS,
}
FOR_EVER = {"seed": 1, "start": 0, "count": 1 << 40, "difficulty_bits": 64}
WAIT_S = 120


class Site(Stall):
    """A stall whose device is an agent's, served on a port."""

    def offer(self, owner: UUID | None = None, **changes: Any) -> Any:
        """No more than any machine has that runs this."""
        return super().offer(owner, **{"resources": {"ram_mb": 1, "cpu_cores": 1, "compute_score": 1}} | changes)

    def wait_for(self, true: Callable[[], Any]) -> Any:
        """Let the workers work until something is so; answers it."""
        ends = time.monotonic() + WAIT_S
        while not (found := true()):
            assert time.monotonic() < ends, "waited in vain"
            self.office.settle()
            time.sleep(0.02)
        return found

    def submit(self, contract_id: str, owner: UUID | None = None, **changes: Any) -> Any:
        body = {"job_id": str(uuid4()), "contract_id": contract_id} | SEARCH | changes
        return self.office.post("marketplace/submit_job", body, owner or self.customer)

    def job(self, job_id: str, owner: UUID | None = None) -> Any:
        return self.office.ask(JOB, owner or self.customer, id=job_id)["job"]

    def ended(self, job_id: str) -> Any:
        return self.wait_for(lambda: (found := self.job(job_id)) and found["state"] != "open" and found)


@pytest.fixture
def site(database: Database, database_url: str, tmp_path: Path) -> Iterator[Site]:
    office = Office(database_url, database, tmp_path / "home")
    office.ctx.devices = EnrolledDevices(office.log)
    listening, url = listen("127.0.0.1", 0)
    serving = server(create_app(office.ctx, [blobs, device_registry, federated_learning, marketplace]))
    thread = threading.Thread(target=serving.run, args=([listening],))
    thread.start()
    site = Site(office)
    site.office.settle()
    claim = office.post("device_registry/issue_claim", {"owner_id": str(site.provider)}).json()["claim_code"]
    state = tmp_path / "device"
    words = ["run", "--api", url, "--data", "mnist:0/20", "--state", str(state), "--heartbeat", "1", "--jobs"]
    agent = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "device", *words, "--claim", claim],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=(tmp_path / "said").open("wb"),
    )
    try:
        site.wait_for((state / "identity.json").exists)
        site.device_id = UUID(msgspec.json.decode((state / "identity.json").read_bytes())["device_id"])
        yield site
    finally:
        agent.terminate()
        agent.wait(60)
        serving.should_exit = True
        thread.join(60)
        office.close()


def test_a_job_is_done_on_the_device_and_paid_by_the_millisecond(site: Site) -> None:
    contract_id = site.bought(site.offered(), duration_ms=60_000)
    refused = site.submit(contract_id, site.provider)
    assert (refused.status_code, refused.json()["code"]) == (403, "wrong_party")
    answer = site.submit(contract_id)
    assert answer.status_code == 200, answer.text
    job_id = answer.json()["id"]
    done = site.ended(job_id)
    assert (done["state"], done["reason"], done["jobType"]) == ("succeeded", "", "hash_search")
    assert site.job(job_id, uuid4()) is None
    now = {"position": site.office.log.head()}
    assert site.office.ask(JOB, site.customer, id=job_id, at=now)["job"] == done
    assert site.office.ask(JOB, uuid4(), id=job_id, at=now)["job"] is None
    result = b"".join(site.office.ctx.blobs.pieces(done["resultHash"]))
    assert str(msgspec.json.decode(result)["digest"]).startswith("000")

    short = LIMITS | {"wall_ms": 100, "cpu_ms": 10_000}
    beyond = site.submit(contract_id, limits=short, parameters=FOR_EVER).json()["id"]
    ended = site.ended(beyond)
    assert (ended["state"], ended["reason"]) == ("failed", "wall_limit")

    used_ms = int(done["usedMs"]) + int(ended["usedMs"])
    body = {"contract_id": contract_id}
    assert site.office.post("marketplace/complete_contract", body, site.customer).status_code == 200
    paid = site.wait_for(lambda: (found := site.contract(contract_id))["state"] == "settled" and found)
    assert (int(paid["usedMs"]), int(paid["chargedGrains"])) == (used_ms, 10 * used_ms)
