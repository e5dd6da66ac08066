"""Signed REST commands at 200/s, and an operation of two contexts, against a village as `village up` starts it."""

import asyncio
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any
from uuid import UUID, uuid4

import httpx2
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api.edge.principals import Tokens
from benchmarks.line import Line, post
from benchmarks.table import Row, middle
from benchmarks.village import Village, village
from cli.parts import running_database_url
from domain.kernel import new_scope, within
from domain.tokenomics.pricing import MS_PER_HOUR, Activity
from domain.tokenomics.service import TokenomicsService
from infrastructure.event_store import open_event_log
from infrastructure.http_signatures import DeviceAuth, signature_headers
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from workers.device_agent.client import VillageClient, open_http
from workers.device_agent.enrolment import Applicant, enrol
from workers.device_agent.state import Capabilities, DeviceState

RATE, SECONDS, RUNS, DEVICES, OPERATIONS = 200, 5, 5, 20, 100
COMMAND_MS, OPERATION_MS = 100, 1_000
FUNDS, MOST = 10**9, 10_000
SLA = {"uptime_bp": 0, "p95_ms": 500, "max_interrupts_per_h": 2, "window_ms": 3_600_000, "penalty_bp": 0}
CONTRACT = "query($id: UUID!) { contract(contractId: $id) { state } }"
COMMAND, LINES = "/v1/device_registry/update_capabilities", 64


@dataclass(frozen=True)
class _Enrolled:
    """A device and the key it signs with."""

    device_id: UUID
    key: Ed25519PrivateKey


def run() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="village-rest-") as folder:
        Path(folder).chmod(0o711)
        home = Path(folder) / "home"
        with village(home) as up:
            return asyncio.run(_measured(up, Settings(home=home), Path(folder) / "devices"))


async def _measured(up: Village, settings: Settings, folder: Path) -> list[Row]:
    provider, customer = uuid4(), uuid4()
    async with open_http(up.url, connections=64) as http:
        seller, buyer = (_member(http, settings, owner) for owner in (provider, customer))
        devices = [await _enrolled(http, seller, folder / str(number)) for number in range(DEVICES)]

        lines = [await Line.open(up.url) for _ in range(LINES)]
        await _paced(lines, _signed(up.url, devices))
        api, cpu_s, commands = up.child("main api"), 0.0, []
        for _ in range(RUNS):
            requests, before = _signed(up.url, devices), sum(api.cpu_times()[:2])
            commands.append(await _paced(lines, requests))
            cpu_s += sum(api.cpu_times()[:2]) - before
        for line in lines:
            line.close()
        cpu_ms = cpu_s / (RUNS * SECONDS * RATE) * 1e3
        _fund(settings, customer)
        device = VillageClient(http, DeviceAuth(devices[0].device_id, devices[0].key))
        await device.beat(1, None)  # nothing is bought of a device that is away
        operations = await _operations(seller, buyer, devices[0].device_id)
    p99, operation = middle(commands), middle([quantiles(operations, n=100)[-1]])
    return [
        Row(
            f"signed REST command at {RATE}/s, p99", p99, "ms", f"< {COMMAND_MS} ms", p99 < COMMAND_MS,
            note=f"of {DEVICES} devices, from the instant each of {RATE * SECONDS} was due until its answer was read;"
            f" signed beforehand, since devices do that; CPU a command in the API: {cpu_ms:.1f} ms, beside the database"
            " and the workers; nearly all of it on one event loop, which the frame of FastAPI and our checks keep busy",
        ),
        Row(
            "operation of two contexts, p99", operation, "ms", f"< {OPERATION_MS} ms", operation < OPERATION_MS,
            note="from proposing a contract until GraphQL tells that it is active: checked, held, reserved and started"
            f" by a saga; {OPERATIONS} of them one after the other, half of them within {middle(operations):g} ms",
        ),
    ]  # fmt: skip


def _signed(url: str, devices: list[_Enrolled]) -> list[bytes]:
    """A run's commands as they go over the wire."""
    address, made = url + COMMAND, []
    for number in range(RATE * SECONDS):
        device = devices[number % DEVICES]
        body = msgspec.json.encode({"capabilities": _capable(number + 1)})
        signed = signature_headers("POST", address, device_id=device.device_id, key=device.key, body=body)
        fields = signed | {"Host": url.partition("//")[2], "Idempotency-Key": str(uuid4())}
        made.append(post(COMMAND, fields, body))
    return made


async def _paced(lines: list[Line], requests: list[bytes]) -> float:
    """The 99th percentile, in ms, from the instant each request was due to its answer."""
    free: asyncio.LifoQueue[Line] = asyncio.LifoQueue()
    for line in lines:
        free.put_nowait(line)
    began = time.perf_counter() + 0.05

    async def call(number: int, request: bytes) -> float:
        due = began + number / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        line = await free.get()
        await line.ask(request)
        free.put_nowait(line)
        return (time.perf_counter() - due) * 1e3

    taken = await asyncio.gather(*(call(number, request) for number, request in enumerate(requests)))
    return quantiles(taken, n=100)[-1]


async def _operations(seller: "_Member", buyer: "_Member", device_id: UUID) -> list[float]:
    """How long each took, in ms, from the proposal until it is read as active."""
    offering_id, deadline = str(uuid4()), datetime.now(UTC) + timedelta(hours=1)
    await seller.command(
        "marketplace/create_service_offering", offering_id=offering_id, device_id=str(device_id),
        service_type="compute_burst", resources={"ram_mb": 1_024, "cpu_cores": 1, "compute_score": 1},
        region="local", capacity=OPERATIONS, price_grains_per_hour="3600", sla=SLA,
        valid_until=(deadline + timedelta(hours=1)).isoformat(),
    )  # fmt: skip
    taken = []
    for _ in range(OPERATIONS):
        contract_id, began = str(uuid4()), time.perf_counter()
        await buyer.command(
            "marketplace/propose_contract", contract_id=contract_id, offering_id=offering_id, units=1,
            duration_ms=60_000, deadline_at=deadline.isoformat(), max_price_grains=str(MOST),
        )  # fmt: skip
        while await buyer.state_of(contract_id) != "active":
            assert time.perf_counter() - began < 30, "the contract does not become active"
            await asyncio.sleep(0.005)
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


class _Member:
    """A client by a bearer token."""

    def __init__(self, http: httpx2.AsyncClient, token: str) -> None:
        self._http, self._headers = http, {"Authorization": f"Bearer {token}"}

    async def command(self, name: str, **body: object) -> Mapping[str, Any]:
        headers = {**self._headers, "Idempotency-Key": str(uuid4())}
        answer = await self._http.post(f"/v1/{name}", json=body, headers=headers)
        assert answer.is_success, answer.text
        return dict(answer.json())

    async def state_of(self, contract_id: str) -> str | None:
        asked = {"query": CONTRACT, "variables": {"id": contract_id}}
        found = (await self._http.post("/graphql", json=asked, headers=self._headers)).json()["data"]["contract"]
        return None if found is None else str(found["state"])


def _member(http: httpx2.AsyncClient, settings: Settings, owner_id: UUID) -> _Member:
    tokens = Tokens(load_keys(settings.home))
    return _Member(http, tokens.issue(role="member", subject=str(owner_id), expires_in=timedelta(hours=1)))


async def _enrolled(http: httpx2.AsyncClient, owner: _Member, folder: Path) -> _Enrolled:
    claim = await owner.command("device_registry/issue_claim")
    state = DeviceState(folder)
    applicant = Applicant(str(claim["claim_code"]), "laptop", "local")
    device = VillageClient(http, DeviceAuth(applicant.device_id, state.signing_key))
    await enrol(applicant, state, VillageClient(http), device, _capable(0))
    state.close()
    return _Enrolled(applicant.device_id, state.signing_key)


def _capable(number: int) -> Capabilities:
    return Capabilities(
        ram_mb=4_096 + number, cpu_cores=4, compute_score=1_000, frameworks=["pytorch"], capabilities=[],
        benchmark_id="matmul-f32-v1",
    )  # fmt: skip


def _fund(settings: Settings, owner_id: UUID) -> None:
    """A reward of so many grains, one for each ms."""
    url = running_database_url(settings)
    assert url is not None
    log = open_event_log(url)
    tokens = TokenomicsService(log)
    generous = TokenomicsService(log, replace(tokens.policy, rate_grains_per_hour=MS_PER_HOUR))
    work = Activity("harvest_contribution", uuid4(), uuid4(), owner_id, FUNDS, 10_000)
    with within(new_scope("operator:benchmark")):
        tokens.open_wallet(owner_id=owner_id)
        claim_id = generous.accrue_reward(activity=work).id
        assert claim_id is not None
        generous.distribute_rewards(batch_id=uuid4(), claim_ids=[claim_id])
    log.close()
