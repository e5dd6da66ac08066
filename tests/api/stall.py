"""A stall: an API, a provider who offers two units of a device, and a customer with funds."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from api import marketplace
from api.app import create_app
from api.server import listen, server
from domain.device_registry.evidence import Evidence, Measurement
from domain.kernel import new_scope, within
from infrastructure.database import Database
from tests.api.office import Office, open_office
from tests.devices import Applicant, enrol, some_capabilities
from tests.economy import fund
from tests.trading import HOUR, PRICE

FUNDS = 2_000_000
SLA = {"uptime_bp": 0, "p95_ms": 500, "max_interrupts_per_h": 2, "window_ms": 600_000, "penalty_bp": 1_000}
CONTRACT = """query($id: UUID!, $at: AsOf) { contract(contractId: $id, asOf: $at) {
    state outcome agreedPrice usedMs chargedGrains feeGrains providerGrains releasedGrains transferId holdId
    sla { uptimeBp windowMs }
} }"""


class Stall:
    """An office with a provider who offers two units of a device, and a customer with funds."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.provider, self.customer = uuid4(), uuid4()
        with within(new_scope("test")):
            fund(office.village.tokenomics, self.customer, FUNDS)
        self.device = Applicant()
        self.device_id = enrol(
            office.village.device_registry, self.device, owner_id=self.provider, now=datetime.now(UTC)
        )
        self.goes("online", seen_at=datetime.now(UTC))

    def offer(self, owner: UUID | None = None, **changes: Any) -> Any:
        """Publish an offering at ten grains a millisecond."""
        body = {
            "offering_id": str(uuid4()),
            "device_id": str(self.device_id),
            "service_type": "compute_burst",
            "resources": {"ram_mb": 4_096, "cpu_cores": 4, "compute_score": 12_000},
            "region": "eu-west",
            "capacity": 2,
            "price_grains_per_hour": str(PRICE),
            "sla": SLA,
            "valid_until": later(24 * HOUR),
        }
        return self.office.post("marketplace/create_service_offering", body | changes, owner or self.provider)

    def offered(self) -> str:
        answer = self.offer()
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def goes(self, presence: str, **since: datetime) -> None:
        """The device goes online, degraded or offline."""
        with within(new_scope("test")):
            command = getattr(self.office.village.device_registry, f"device_went_{presence}")
            command(device_id=self.device_id, **since)

    def measures(self, *results: tuple[str, int, int]) -> None:
        """The device brings evidence of methods, versions and values."""
        told = Evidence(4, 4_096, [Measurement(*result, datetime.now(UTC)) for result in results])
        signature = self.device.signed(told)
        with within(new_scope("test")):
            self.office.village.device_registry.update_capabilities(
                device_id=self.device_id, capabilities=some_capabilities(), evidence=told, signature=signature
            )

    def proposal(self, offering_id: str, **changes: Any) -> dict[str, Any]:
        """A body that asks for a millisecond of one unit."""
        asked = {
            "contract_id": str(uuid4()),
            "offering_id": offering_id,
            "units": 1,
            "duration_ms": 1,
            "deadline_at": later(HOUR),
            "max_price_grains": str(FUNDS),
        }
        return asked | changes

    def bought(self, offering_id: str, **changes: Any) -> str:
        """A contract that is active."""
        answer = self.office.post("marketplace/propose_contract", self.proposal(offering_id, **changes), self.customer)
        assert answer.status_code == 200, answer.text
        self.office.settle()
        contract_id = str(answer.json()["id"])
        assert self.contract(contract_id)["state"] == "active"
        return contract_id

    def report(self, contract_id: str, ms: int, owner: UUID | None = None) -> Any:
        body = {"contract_id": contract_id, "cumulative_ms": ms}
        answer = self.office.post("marketplace/report_usage", body, owner or self.provider)
        self.office.settle()
        return answer

    def contract(self, contract_id: str, owner: UUID | None = None, **more: Any) -> Any:
        return self.office.ask(CONTRACT, owner or self.customer, id=contract_id, **more)["contract"]


def later(delta: timedelta) -> str:
    return (datetime.now(UTC) + delta).isoformat()


@pytest.fixture
def stall(database: Database, database_url: str, tmp_path: Path) -> Iterator[Stall]:
    for office in open_office(database_url, database, tmp_path):
        yield Stall(office)


@pytest.fixture
def url(stall: Stall) -> Iterator[str]:
    """Where the stall answers over a socket."""
    listening, url = listen("127.0.0.1", 0)
    serving = server(create_app(stall.office.ctx, [marketplace]))
    thread = threading.Thread(target=serving.run, args=([listening],))
    thread.start()
    ends = time.monotonic() + 60
    while not serving.started and time.monotonic() < ends:
        time.sleep(0.005)
    assert serving.started, "the server did not start"
    yield url
    serving.should_exit = True
    thread.join(60)
    assert not thread.is_alive(), "the server did not stop"
