"""Payments on the event log: a plan over the services of tokenomics and the marketplace, run by the saga runner.

A process of its own runs `python -m benchmarks.payments.village URL`.
"""

import sys
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import structlog

from benchmarks.payments import CAPACITY, FUNDS, PRICE, Payment, customers, offering_of, providers
from domain.kernel import EventLog, Fact, new_scope, within
from domain.marketplace.contract import Contract
from domain.marketplace.offering import Resources
from domain.marketplace.service import MarketplaceService
from domain.marketplace.sla import SlaTerms
from domain.sagas.deadline import Deadlines
from domain.sagas.plan import Plan, Step
from domain.sagas.process import Process
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.pricing import MS_PER_HOUR, Activity, Policy
from domain.tokenomics.service import TokenomicsService
from domain.tokenomics.wallet import InsufficientFunds, Wallet
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from workers.saga_runner import SagaRunner

CLEARING = UUID(int=11)
"""The owner whose wallet has what is captured and not yet credited."""
WINDOW_MS, HOUR = 86_400_000, timedelta(hours=1)
SLA = SlaTerms(uptime_bp=9_000, p95_ms=1_000, max_interrupts_per_h=10, window_ms=WINDOW_MS, penalty_bp=0)
RESOURCES = Resources(ram_mb=1_024, cpu_cores=1, compute_score=1_000)


@dataclass(frozen=True)
class Services:
    """What the plan commands."""

    log: EventLog
    tokenomics: TokenomicsService
    marketplace: MarketplaceService


def services(log: EventLog) -> Services:
    return Services(log, TokenomicsService(log), MarketplaceService(log, owner_of=lambda device_id: device_id))


def _verify(process: Process, village: Services) -> None:
    now = datetime.fromisoformat(process.subject["proposed_at"])
    customer_id = UUID(process.subject["customer"])
    if not village.tokenomics.verify_payment_capability(owner_id=customer_id, grains=PRICE, now=now).capable:
        raise InsufficientFunds(f"owner {customer_id}")


def _hold(process: Process, village: Services) -> None:
    village.tokenomics.hold_funds(
        owner_id=UUID(process.subject["customer"]),
        hold_id=process.step_id("hold"),
        grains=PRICE,
        expires_at=process.due_at + HOUR,
        purpose="payment",
    )


def _void(process: Process, village: Services) -> None:
    village.tokenomics.void_hold(owner_id=UUID(process.subject["customer"]), hold_id=process.step_id("hold"))


def _reserve(process: Process, village: Services) -> None:
    village.marketplace.reserve_capacity(contract_id=UUID(process.subject["contract"]))


def _release(process: Process, village: Services) -> None:
    village.marketplace.release_capacity(contract_id=UUID(process.subject["contract"]))


def _capture(process: Process, village: Services) -> None:
    village.tokenomics.capture_hold(
        owner_id=UUID(process.subject["customer"]),
        hold_id=process.step_id("hold"),
        to_owner_id=CLEARING,
        grains=PRICE,
    )


def _credit(process: Process, village: Services) -> None:
    village.tokenomics.process_payment(
        payment_id=str(process.id),
        from_owner_id=CLEARING,
        to_owner_id=UUID(process.subject["provider"]),
        grains=PRICE,
    )


class Pay(Plan):
    """Begins when a contract is proposed."""

    name = "benchmark_payment"
    timeout_ms = 3_600_000
    begins_on = (Contract.ServiceContractCreated,)
    steps = (
        Step("verify", _verify),
        Step("hold", _hold, _void),
        Step("reserve", _reserve, _release),
        Step("capture", _capture, pivot=True),
        Step("credit", _credit),
    )

    def subject_of(self, fact: Fact) -> dict[str, str]:
        asked = fact.event
        return {
            "contract": str(fact.stream),
            "customer": str(asked.customer_id),
            "provider": str(asked.provider_id),
            "proposed_at": fact.recorded_at.isoformat(),
        }


class VillagePayments:
    """The client's side of payments on the event log."""

    name = "ours"
    module = "benchmarks.payments.village"

    def __init__(self, database: Database) -> None:
        self._database = database
        self.urls: tuple[str, ...] = (database.url,)
        self.log = open_event_log(database.url)
        self._services = services(self.log)

    def close(self) -> None:
        self.log.close()
        self._database.close()

    def prepare(self) -> None:
        """Open all wallets, fund the customers', and publish the offerings."""
        tokenomics = TokenomicsService(self.log, replace(Policy(), rate_grains_per_hour=MS_PER_HOUR))
        claims = []
        for owner_id in [CLEARING, *providers(), *customers()]:
            with within(new_scope("operator:benchmark")):
                tokenomics.open_wallet(owner_id=owner_id)
        for owner_id in customers():
            earned = Activity("harvest_contribution", owner_id, owner_id, owner_id, FUNDS, 10_000)
            with within(new_scope("operator:benchmark")):
                claims.append(tokenomics.accrue_reward(activity=earned).id)
        with within(new_scope("operator:benchmark")):
            tokenomics.distribute_rewards(batch_id=uuid5(CLEARING, "funds"), claim_ids=[c for c in claims if c])
        for provider_id in providers():
            with within(new_scope("operator:benchmark")):
                self._services.marketplace.create_service_offering(
                    offering_id=offering_of(provider_id), provider_id=provider_id, device_id=provider_id,
                    service_type="compute_burst", resources=RESOURCES, region="eu", capacity=CAPACITY,
                    price_grains_per_hour=PRICE, sla=SLA, valid_until=datetime.now(UTC) + timedelta(days=30),
                )  # fmt: skip

    def submit(self, payment: Payment) -> None:
        """Propose the contract that the payment is for."""
        with within(new_scope("operator:benchmark")):
            self._services.marketplace.propose_contract(
                contract_id=payment.payment_id,
                offering_id=payment.offering_id,
                customer_id=payment.customer_id,
                units=1,
                duration_ms=MS_PER_HOUR,
                deadline_at=datetime.now(UTC) + timedelta(days=1),
                max_price_grains=PRICE,
            )

    def steps(self) -> int:
        """How many steps have been done."""
        return self._count("sagas.Process.StepDone")

    def ended(self) -> int:
        """How many payments have ended."""
        return self._count("sagas.Process.Completed")

    def _count(self, topic: str) -> int:
        with self._database.reader.connection() as connection:
            query = "SELECT count(*) FROM log.events WHERE topic = %s"
            ((count,),) = connection.execute(query, (topic,)).fetchall()
        return int(count)

    def balances(self) -> dict[UUID, int]:
        """What every owner has, none of it held back."""
        log = open_event_log(self._database.url)
        wallets = {owner_id: log.load(Wallet, wallet_id_of(owner_id)) for owner_id in [*providers(), *customers()]}
        log.close()
        assert not any(wallet.held for wallet in wallets.values()), "a payment has ended and its hold has not"
        return {owner_id: wallet.posted for owner_id, wallet in wallets.items()}


def work(url: str) -> None:
    """Run the saga until killed."""
    log, database = open_event_log(url), Database(url, pool_size=4, application="benchmark")
    runner: Any = SagaRunner(log, database, [Pay(Deadlines(log))], services(log))
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    print("ready", flush=True)
    runner.run(threading.Event())


if __name__ == "__main__":
    work(*sys.argv[1:])
