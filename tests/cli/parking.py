"""A contract of a running village whose payment is parked, for the operator's commands over processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from domain.device_registry.service import DeviceRegistryService
from domain.kernel import EventLog, derive, new_scope, within
from domain.marketplace.offering import Resources
from domain.marketplace.service import MarketplaceService
from domain.sagas.deadline import Deadlines
from domain.sagas.pay_for_service import process_id_of
from domain.sagas.process import PARKED, Process
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.pricing import Activity
from domain.tokenomics.service import TokenomicsService
from domain.tokenomics.wallet import Wallet
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable
from tests.cli.villages import eventually
from tests.devices import enrol
from tests.trading import HOUR_MS, SLA

PRICE = 1_000


@dataclass(frozen=True)
class Payment:
    """A payment of 1,000 grains for an hour of service, as the log has it."""

    log: EventLog
    customer_id: UUID
    process_id: UUID

    @property
    def status(self) -> str:
        return self.log.load(Process, self.process_id).status

    @property
    def held(self) -> int:
        """Grains of the customer that are held back."""
        return self.log.load(Wallet, wallet_id_of(self.customer_id)).held


@contextmanager
def parked_payment(url: str, home: Path) -> Iterator[Payment]:
    """The runner of the village takes it to the work; then its time is said to be over, and an operator is wanted."""
    with Database(url) as database:
        log = open_event_log(url, subject_keys=SubjectKeyTable(database, KeyEncryptionKeys(home)))
        try:
            contract_id, customer_id = uuid4(), uuid4()
            _propose(log, contract_id, customer_id)
            payment = Payment(log, customer_id, process_id_of(contract_id))
            assert eventually(lambda: log.find(Process, payment.process_id) is not None)
            assert eventually(lambda: log.load(Process, payment.process_id).awaits)
            timeout = derive("sagas.Process.timeout", payment.process_id)
            with within(new_scope("test")):
                due_at = log.load(Process, payment.process_id).due_at
                Deadlines(log).elapse_deadline(token=timeout, now=due_at)
            assert eventually(lambda: payment.status == PARKED)
            yield payment
        finally:
            log.close()


def _propose(log: EventLog, contract_id: UUID, customer_id: UUID) -> None:
    """A funded customer buys an hour of a new offering."""
    now, provider_id, offering_id = datetime.now(UTC), uuid4(), uuid4()
    tokenomics, market = TokenomicsService(log), MarketplaceService(log, lambda _: provider_id)
    device_id = enrol(DeviceRegistryService(log), owner_id=provider_id, now=now)
    with within(new_scope("test")):
        work = Activity("fl_participation", uuid4(), uuid4(), customer_id, HOUR_MS, 10_000)
        claim_id = tokenomics.accrue_reward(activity=work).id
        assert claim_id is not None
        tokenomics.distribute_rewards(batch_id=uuid4(), claim_ids=[claim_id])
        market.create_service_offering(
            offering_id=offering_id,
            provider_id=provider_id,
            device_id=device_id,
            service_type="compute_burst",
            resources=Resources(4_096, 4, 12_000),
            region="eu-west",
            capacity=1,
            price_grains_per_hour=PRICE,
            sla=SLA,
            valid_until=now + timedelta(days=1),
        )
        market.propose_contract(
            contract_id=contract_id,
            offering_id=offering_id,
            customer_id=customer_id,
            units=1,
            duration_ms=HOUR_MS,
            deadline_at=now + timedelta(hours=2),
            max_price_grains=PRICE,
        )
