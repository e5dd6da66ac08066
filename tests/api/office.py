"""The operators' side of the API on a real log: accounts, a read model that can be broken, a process that can park."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import httpx2
from fastapi.testclient import TestClient

from api import audit, device_registry, federated_learning, harvest, marketplace, monitoring, privacy, sagas, tokenomics
from api.app import create_app
from api.edge.context import ApiContext
from cli.harvest_ports import RestingDevices
from cli.ports import DeviceOwners, DeviceResources, OwnerFlows, PresentDevices
from domain.device_registry.service import DeviceRegistryService
from domain.federated_learning.service import FederatedLearningService
from domain.harvest.service import HarvestService
from domain.kernel import Fact, Refusal, new_scope, within
from domain.marketplace.service import MarketplaceService
from domain.monitoring import MonitoringService
from domain.privacy.service import PrivacyService
from domain.sagas.allocate_burst import AllocateBurst
from domain.sagas.deadline import Deadlines
from domain.sagas.hand_off_contract import HandOffContract
from domain.sagas.operations import SagaOperations
from domain.sagas.pay_for_service import PayForService
from domain.sagas.plan import Plan, Step
from domain.sagas.process import Process
from domain.sagas.village import Village
from domain.tokenomics.service import TokenomicsService
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.keys import load_keys
from infrastructure.sealing_keys import load_sealing_keys
from infrastructure.settings import Settings
from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable
from projections.catalogue import READ_MODELS
from projections.matching import OfferingIndex
from projections.tokenomics.flows import FlowIndex
from projections.tokenomics.queries import RewardIndex
from tests.balances import BalanceRow, Balances, create_tables
from tests.devices import Directory
from tests.ledger import Account, Ledger
from workers.log_sealer import LogSealer
from workers.projector import Projector
from workers.saga_runner import SagaRunner
from workers.subject_eraser import SubjectEraser

ORIGIN = "office.test/log"
CONTEXTS = (audit, device_registry, federated_learning, harvest, marketplace, monitoring, privacy, sagas, tokenomics)


class Mended:
    """Whether what fails has been mended; one office has one."""

    def __init__(self) -> None:
        self.is_so = False


class Breakable(Balances):
    """Balances that cannot fold a deposit to the owner `unlucky`, until it is mended."""

    def __init__(self, mended: Mended) -> None:
        self._mended = mended

    def evolve(self, row: BalanceRow | None, fact: Fact, key: Any) -> BalanceRow | None:
        unlucky = row is not None and row.owner == "unlucky"
        if unlucky and isinstance(fact.event, Account.Deposited) and not self._mended.is_so:
            raise ValueError("cannot fold this deposit")
        return super().evolve(row, fact, key)


class NotMended(Refusal):
    """The second step is refused until it is mended."""


def plan_of(deadlines: Deadlines, mended: Mended) -> Plan:
    """A process of each account that is opened by `process`: a pivot, then a step that is refused until mended."""

    def deliver(process: Process, village: Any) -> None:
        if not mended.is_so:
            raise NotMended()

    class Delivery(Plan):
        name = "delivery"
        timeout_ms = 3_600_000
        begins_on = (Account.Opened,)
        steps = (Step("pay", lambda process, village: None, pivot=True), Step("deliver", deliver))

        def subject_of(self, fact: Fact) -> dict[str, str] | None:
            return {"account": str(fact.stream)} if fact.event.owner == "process" else None

    return Delivery(deadlines)


class Office:
    """An API, who may ask it, and the workers behind it, which run when told to."""

    def __init__(self, url: str, database: Database, home: Path) -> None:
        create_tables(database)
        self.database = database
        self.mended = Mended()
        self.subject_keys = SubjectKeyTable(database, KeyEncryptionKeys(home))
        self.log = open_event_log(url, subject_keys=self.subject_keys)
        self.ledger = Ledger(self.log)
        blobs = BlobStore.open(None, home=home)
        self.models = [*READ_MODELS, Breakable(self.mended)]
        deadlines = Deadlines(self.log)
        plans = [plan_of(deadlines, self.mended), PayForService(deadlines), AllocateBurst(deadlines)]
        plans.append(HandOffContract(deadlines))
        self.village = Village(
            log=self.log,
            device_registry=DeviceRegistryService(self.log),
            tokenomics=TokenomicsService(self.log, None, RewardIndex(database)),
            federated_learning=FederatedLearningService(self.log, blobs, cast(Any, None)),
            marketplace=MarketplaceService(
                self.log,
                DeviceOwners(self.log),
                OfferingIndex(database),
                DeviceResources(self.log),
                RestingDevices(self.log),
                OwnerFlows(FlowIndex(database)),
                PresentDevices(self.log),
            ),
            monitoring=MonitoringService(self.log, [model.name for model in self.models]),
            deadlines=deadlines,
            sagas=SagaOperations(self.log, plans),
            privacy=PrivacyService(self.log),
            harvest=HarvestService(self.log, DeviceOwners(self.log)),
        )
        self.projector = Projector(database, self.models)
        self.runner = SagaRunner(self.log, database, plans, self.village)
        keys = load_sealing_keys(home, ORIGIN)
        self.sealer = LogSealer(database, lambda: keys)
        self.eraser = SubjectEraser(database, self.subject_keys)
        self.ctx = ApiContext(
            village=self.village,
            database=database,
            blobs=blobs,
            keys=load_keys(home),
            settings=Settings(home=home),
            devices=Directory(),
            verifiers=lambda: keys.verifiers,
            subject_keys=self.subject_keys,
        )
        app = create_app(self.ctx, CONTEXTS)
        self.tokens = app.state.gate.tokens
        self.client = TestClient(app)

    def headers(self, owner: UUID | None = None, key: str | None = None) -> dict[str, str]:
        """An operator's, or a member's; with a new idempotency key by default."""
        role, subject = ("operator", "ada") if owner is None else ("member", str(owner))
        token = self.tokens.issue(role=role, subject=subject, expires_in=timedelta(hours=1))
        return {"Authorization": f"Bearer {token}", "Idempotency-Key": key or str(uuid4())}

    def post(
        self, path: str, body: dict[str, Any], owner: UUID | None = None, key: str | None = None
    ) -> httpx2.Response:
        return self.client.post(f"/v1/{path}", json=body, headers=self.headers(owner, key))

    def refused(self, path: str, body: dict[str, Any], owner: UUID | None = None) -> tuple[int, str]:
        """Status and code of a command that is refused and records nothing."""
        head = self.log.head()
        answer = self.post(path, body, owner)
        assert self.log.head() == head
        return answer.status_code, answer.json()["code"]

    def answer(self, query: str, owner: UUID | None = None, **variables: Any) -> dict[str, Any]:
        body = {"query": query, "variables": variables}
        answer = self.client.post("/graphql", json=body, headers=self.headers(owner))
        assert answer.status_code == 200, answer.text
        return cast(dict[str, Any], answer.json())

    def ask(self, query: str, owner: UUID | None = None, **variables: Any) -> Any:
        """The data of an answer without errors."""
        answer = self.answer(query, owner, **variables)
        assert "errors" not in answer, answer
        return answer["data"]

    def code(self, query: str, owner: UUID | None = None, **variables: Any) -> str:
        """The code of the one error of an answer."""
        (error,) = self.answer(query, owner, **variables)["errors"]
        return str(error["extensions"]["code"])

    def opened(self, owner: str = "somebody", *deposits: int) -> UUID:
        """An account with deposits, made by commands."""
        account_id = uuid4()
        with within(new_scope("test")):
            self.ledger.open(account_id=account_id, owner=owner)
        for grains in deposits:
            with within(new_scope("test")):
                self.ledger.deposit(account_id=account_id, grains=grains)
        return account_id

    def settle(self) -> None:
        """Projector and sagas have seen everything."""
        head = -1
        while head != self.log.head():
            head = self.log.head()
            self.projector.run_once()
            self.runner.run_once()
        self.projector.run_once()

    def close(self) -> None:
        for part in (self.projector, self.runner, self.sealer, self.log):
            part.close()


def open_office(url: str, database: Database, home: Path) -> Iterator[Office]:
    """An office that answers until the test ends."""
    office = Office(url, database, home)
    with office.client:
        yield office
    office.close()
