"""A whole village in one process for the browser, composed as the command line does."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from pydantic import SecretStr

from api.edge.login import create_login_code
from api.server import listen, server
from cli.compose import WORKERS, api_app
from cli.parts import parts
from domain.device_registry.criteria import DeviceCriteria
from domain.device_registry.device import Device
from domain.federated_learning.session import TrainingSession
from domain.harvest.policy import HarvestPolicy
from domain.kernel import new_scope, within
from domain.kernel.tokens import GRAINS_PER_TOKEN
from domain.marketplace.contract import Contract
from domain.marketplace.offering import Resources
from domain.marketplace.sla import Measured, SlaTerms
from domain.sagas.pay_for_service import process_id_of
from domain.sagas.process import Process
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.wallet import Wallet
from infrastructure.harvest import HarvestStore
from infrastructure.settings import Settings
from tests.devices import enrol
from tests.harvesting import a_sample
from tests.running import in_background
from tests.training import MANIFEST, Shelf, arrays, blob_of, norm_of, training_request

PATIENCE_S = 60.0
PRICE = GRAINS_PER_TOKEN // 1_000
"""Grains an hour that every offering asks: what a round of some ms earns buys half a minute."""
_STOP_S = 60.0
_WORKERS = ("clock", "projector", "saga-runner")


class Site:
    """The page's village. Everything it shows is made by commands; the address outlives restarts of the API."""

    def __init__(self, database_url: str, home: Path) -> None:
        self.settings = Settings(home=home, database_url=SecretStr(database_url), max_participants_per_round=20)
        self.url = ""
        self._url = database_url
        self.devices: list[UUID] = []
        self._ends = ExitStack()
        self._api = ExitStack()
        self._port = 0

    def __enter__(self) -> "Site":
        self._parts = self._ends.enter_context(parts(self.settings, "test"))
        for name in _WORKERS:
            self._ends.enter_context(_running_worker(name, self.settings))
        self.start_api()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_api()
        self._ends.close()

    def start_api(self) -> None:
        """Serve the API and the page, at the same address as before."""
        app = self._api.enter_context(api_app(self.settings))
        socket, self.url = listen("127.0.0.1", self._port)
        self._port = socket.getsockname()[1]
        serving = server(app)
        thread = threading.Thread(target=serving.run, args=([socket],))
        thread.start()

        def stop() -> None:
            serving.should_exit = True
            thread.join(_STOP_S)
            assert not thread.is_alive(), "the API did not stop"

        self._api.callback(stop)
        until(lambda: serving.started, "the API listens")

    def stop_api(self) -> None:
        """Stop the API, the way a restart does."""
        self._api.close()

    def login_link(self, role: str = "operator", subject: str = "ada") -> str:
        """A one-time link."""
        code = create_login_code(self._parts.database.writer, role=role, subject=subject)
        return f"{self.url}/login?code={code}"

    def ask(self, command: Callable[..., Any], **arguments: Any) -> Any:
        """Run a command."""
        with within(new_scope("test")):
            return command(**arguments)

    def enrol(self, number: int) -> None:
        """Enrol devices and see them online."""
        registry = self._parts.village.device_registry
        for _ in range(number):
            device_id = enrol(registry, now=_now())
            self.ask(registry.device_went_online, device_id=device_id, seen_at=_now())
            self.devices.append(device_id)

    def train(self, *, name: str, rounds: int) -> UUID:
        """Start a session, once the read models know the devices; answers its id."""
        known = self._parts.village.device_registry.query_devices
        until(lambda: len(known(criteria=DeviceCriteria())[0]) >= len(self.devices), "the devices are known")
        model_hash = self._parts.blobs.put_bytes(blob_of(arrays(seed=99)))
        request = training_request(Shelf(), name=name, rounds=rounds, base_model_hash=model_hash)
        session_id: UUID = self.ask(self._parts.village.federated_learning.start_training, **request).id
        return session_id

    def open_round(self, session_id: UUID) -> UUID:
        """The round a session has open; its saga opens it."""
        round_id: UUID = until(lambda: self._session(session_id).open_round, "a round is open")
        return round_id

    def submit(self, round_id: UUID, device_id: UUID, train_ms: int = 40_000) -> None:
        """A device sends its update."""
        update = arrays(MANIFEST, seed=device_id.int % 2**32)
        blob = blob_of(update)
        self.ask(
            self._parts.village.federated_learning.submit_update,
            device_id=device_id,
            round_id=round_id,
            blob_hash=self._parts.blobs.put_bytes(blob),
            bytes=len(blob),
            examples=100,
            train_ms=train_ms,
            norm=norm_of(update),
        )

    def complete(self, round_id: UUID, accuracy: float, loss: float) -> None:
        """Record the outcome of a sealed round."""
        self.ask(
            self._parts.village.federated_learning.complete_training_round,
            round_id=round_id,
            model_hash=f"{round_id.int:064x}",
            accumulator_hash="f" * 64,
            clipped=0,
            metrics={"accuracy": accuracy, "loss": loss},
        )

    def participants(self, round_id: UUID) -> Sequence[UUID]:
        """The devices asked in a round."""
        found: Sequence[UUID] = self._parts.village.federated_learning.get_selected_participants(round_id=round_id)
        return found

    def suspend(self, device_id: UUID, reason: str) -> None:
        """Take a device out of everything."""
        self.ask(self._parts.village.device_registry.suspend_device, device_id=device_id, reason=reason)

    def owner_of(self, device_id: UUID) -> UUID:
        """Whose device it is."""
        return self._parts.log.load(Device, device_id).owner_id

    def lend(self, device_id: UUID) -> Callable[..., None]:
        """Open a harvest session; answers what sends one sample more, a second later than the one before."""
        harvest = self._parts.village.harvest
        sensors = ["battery", "power", "temperature", "cpu", "network"]
        policy = HarvestPolicy()
        session_id = self.ask(harvest.start_harvest_session, device_id=device_id, policy=policy, sensors=sensors).id
        store, began, sequences = HarvestStore(self._parts.database, harvest), _now(), count(1)

        def sample(**values: Any) -> None:
            sequence = next(sequences)
            at = began + timedelta(seconds=sequence)
            store.take(
                session_id=session_id,
                device_id=device_id,
                samples=[a_sample(sequence, sampled_at=at, **values)],
                now=at,
            )

        return sample

    def offer(self, device_id: UUID) -> UUID:
        """Sell a unit of a device, with a promise."""
        offering_id = uuid4()
        self.ask(
            self._parts.village.marketplace.create_service_offering,
            offering_id=offering_id,
            provider_id=self.owner_of(device_id),
            device_id=device_id,
            service_type="compute_burst",
            resources=Resources(ram_mb=64, cpu_cores=1, compute_score=1),
            region="here",
            capacity=1,
            price_grains_per_hour=PRICE,
            sla=SlaTerms(uptime_bp=9_990, p95_ms=500, max_interrupts_per_h=2, window_ms=60_000, penalty_bp=0),
            valid_until=_now() + timedelta(hours=1),
        )
        return offering_id

    def buy(self, offering_id: UUID, customer_id: UUID, duration_ms: int) -> Contract:
        """A contract, once it is active."""
        market, contract_id = self._parts.village.marketplace, uuid4()
        self.ask(
            market.propose_contract,
            contract_id=contract_id,
            customer_id=customer_id,
            offering_id=offering_id,
            units=1,
            duration_ms=duration_ms,
            deadline_at=_now() + timedelta(minutes=30),
            max_price_grains=PRICE,
        )
        until(lambda: self.contract(contract_id).status not in ("proposed", "reserved"), "the payment is decided")
        contract = self.contract(contract_id)
        assert contract.status == "active", self._parts.log.load(Process, process_id_of(contract_id)).reason
        return contract

    def contract(self, contract_id: UUID) -> Contract:
        """A contract as the log has it."""
        self._parts.log.cache.drop(contract_id)
        return self._parts.village.marketplace.get_contract(contract_id=contract_id)

    def break_off(self, contract: Contract, delivered_ms: int) -> None:
        """Deliver so much, be accepted, and be judged to have been away all the time."""
        market = self._parts.village.marketplace
        of = {"contract_id": contract.id, "provider_id": contract.terms.provider_id}
        started_at = contract.started_at
        assert started_at is not None
        until(lambda: _now() - started_at > timedelta(milliseconds=delivered_ms), "the time has passed")
        self.ask(market.report_usage, **of, cumulative_ms=delivered_ms)
        self.ask(market.complete_contract, contract_id=contract.id, customer_id=contract.terms.customer_id)
        ended_at = self.contract(contract.id).ended_at
        assert ended_at is not None
        away = Measured(0, (ended_at - started_at) // timedelta(milliseconds=1), 0, 0)
        self.ask(market.evaluate_sla_window, contract_id=contract.id, window=0, measured=away, evidence_hash="0" * 64)
        until(lambda: self.contract(contract.id).status == "settled", "the contract is settled")

    def settled_balance(self, device_id: UUID, claims: int) -> int:
        """The grains of a device's owner once this many of its claims are paid."""

        def paid() -> bool:
            row = self._row("SELECT claims, pending_grains FROM read.device_payouts WHERE device_id = %s", device_id)
            return bool(row == (claims, 0))

        until(paid, f"{claims} claims are paid")
        wallet_id = wallet_id_of(self.owner_of(device_id))
        self._parts.log.cache.drop(wallet_id)
        return self._parts.log.load(Wallet, wallet_id).posted

    def settled(self) -> int:
        """The head of the log once nothing is added any more."""
        heads = [0, 1]

        def calm() -> bool:
            heads.append(self._row("SELECT max(position) FROM log.events")[0])
            time.sleep(0.3)
            return heads[-1] == heads[-2]

        until(calm, "the log comes to rest")
        return heads[-1]

    @contextmanager
    def unreadable(self, table: LiteralString) -> Iterator[None]:
        """Take the reader's right to a table away for a while."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"REVOKE SELECT ON {table} FROM village_reader")
            try:
                yield
            finally:
                connection.execute(f"GRANT SELECT ON {table} TO village_reader")

    def _row(self, query: LiteralString, *parameters: object) -> Any:
        with self._parts.database.reader.connection() as connection:
            return connection.execute(query, parameters).fetchone()

    def _session(self, session_id: UUID) -> TrainingSession:
        self._parts.log.cache.drop(session_id)
        return self._parts.log.load(TrainingSession, session_id)


@contextmanager
def _running_worker(name: str, settings: Settings) -> Iterator[None]:
    with WORKERS[name](settings) as runners, in_background(*runners):
        yield


def _now() -> datetime:
    return datetime.now(UTC)


def until(found: Callable[[], Any], what: str) -> Any:
    """Poll until something is found; fails after PATIENCE_S."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        if result := found():
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE_S} s in vain: {what}")
