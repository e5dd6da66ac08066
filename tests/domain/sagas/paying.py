"""A village in which services are offered, bought, delivered and paid."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from msgspec.structs import replace

from domain.device_registry.device import ONLINE, Device
from domain.device_registry.reputation import Reputation
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import Fact, Receipt
from domain.marketplace.contract import Contract
from domain.marketplace.dealing import Flows, around
from domain.marketplace.matching import Candidate, KnownDevice, Snapshot, Wish
from domain.marketplace.offering import Offering, Resources
from domain.marketplace.service import MarketplaceService
from domain.marketplace.sla import SlaTerms
from domain.sagas.deadline import Deadlines
from domain.sagas.operations import SagaOperations
from domain.sagas.pay_for_service import PayForService, PaymentPolicy, process_id_of
from domain.sagas.process import Process
from domain.sagas.village import Village
from domain.tokenomics.accounts import FEES, INSURANCE, wallet_id_of
from domain.tokenomics.transfer import Transfer
from domain.tokenomics.wallet import Wallet
from tests.devices import enrol
from tests.economy import Books, Economy, MemoryEconomy, assert_sound
from tests.flows import flow_rows, flows_through
from tests.sagas import Stage
from tests.trading import EVIDENCE, HOUR, HOUR_MS, PRICE, SLA, measured

TEN_MINUTES = 600_000
FEE = PRICE // 50
NO_SLA = replace(SLA, uptime_bp=0)
FUNDS = 2 * PRICE
"""What a customer has: two hours of one unit."""


class Market(Books):
    """One offering of four units, and the saga on a stage."""

    stage: Stage

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self.registry = DeviceRegistryService(self.log)
        self.owners: dict[UUID, UUID] = {}
        self.market = MarketplaceService(
            self.log, lambda device_id: self.owners.get(device_id), self, flows=self.flows_between
        )
        self.offerings: list[UUID] = []
        deadlines = Deadlines(self.log)
        unused: Any = None
        self.plan = PayForService(deadlines, PaymentPolicy())
        self.operations = SagaOperations(self.log, [self.plan])
        self.village = Village(
            self.log,
            self.registry,
            self.service,
            unused,
            self.market,
            deadlines,
            unused,
            self.operations,
            unused,
            unused,
        )
        self.stage = self.staged([self.plan], self.village)
        self.provider_id, self.customer_id = uuid4(), self.given(FUNDS)
        self.device_id = enrol(self.registry, owner_id=self.provider_id, now=self.now)
        self.owners[self.device_id] = self.provider_id
        self.offering_id = self.offer()

    def close(self) -> None:
        self.stage.close()
        super().close()

    def ask(self, command: Any, **arguments: Any) -> Receipt:
        return self.stage.ask(command, **arguments)

    def enrolled(self) -> UUID:
        """Another device of the provider."""
        return enrol(self.registry, owner_id=self.provider_id, now=self.now)

    def offer(self, capacity: int = 4, sla: SlaTerms = SLA, **more: Any) -> UUID:
        """Publish an offering at ten grains a millisecond; by default of the one device."""
        asked: dict[str, Any] = {
            "offering_id": uuid4(),
            "provider_id": self.provider_id,
            "device_id": self.device_id,
            "service_type": "compute_burst",
            "resources": Resources(4_096, 4, 12_000),
            "region": "eu-west",
            "capacity": capacity,
            "price_grains_per_hour": PRICE,
            "sla": sla,
            "valid_until": self.now + 8_760 * HOUR,
        } | more
        self.owners[asked["device_id"]] = self.provider_id
        self.ask(self.registry.device_went_online, device_id=asked["device_id"], seen_at=self.now)
        self.ask(self.market.create_service_offering, **asked)
        self.offerings.append(asked["offering_id"])
        return self.offerings[-1]

    def open_offerings(self, *, limit: int) -> Snapshot:
        """The directory: what the log has."""
        found = [self.log.load(Offering, offering_id) for offering_id in self.offerings]
        candidates = [
            Candidate(
                one.id, one.provider_id, one.service_type, one.region, 4_096, 4, 12_000, one.free,
                one.price_grains_per_hour, one.sla.uptime_bp, one.valid_until,
                self.known(one.device_id),
            )
            for one in found
            if not one.withdrawn
        ]  # fmt: skip
        return Snapshot(candidates[:limit], self.log.head())

    def known(self, device_id: UUID) -> KnownDevice:
        """A device as the log has it."""
        device = self.log.load(Device, device_id)
        measured: dict[str, Any] = {} if device.evidence is None else {**device.evidence.quantities}
        return KnownDevice(online=device.presence == ONLINE, **measured)

    def flows_between(self, low_id: UUID, high_id: UUID) -> Flows:
        """The port of payments: what the log has."""
        facts = self.facts()
        rows = flow_rows(facts)
        gave, got, hops = flows_through(rows, wallet_id_of(low_id), wallet_id_of(high_id))
        return Flows(gave, got, *around(hops), facts[-1].position)

    def receipt(self, price: int = PRICE, **changes: Any) -> UUID:
        """Ask for an hour at such a price at most; answers the id of the receipt."""
        wish = Wish("compute_burst", 1, HOUR_MS, self.now + 2 * HOUR, price, **changes)
        asked = {"request_id": uuid4(), "customer_id": self.customer_id, "wish": wish}
        receipt = self.ask(self.market.match_service_request, **asked)
        assert receipt.id is not None
        return receipt.id

    def propose(self, **changes: Any) -> UUID:
        """Ask for an hour of one unit within two; answers the contract's id."""
        asked: dict[str, Any] = {
            "contract_id": uuid4(),
            "offering_id": self.offering_id,
            "customer_id": self.customer_id,
            "units": 1,
            "duration_ms": HOUR_MS,
            "deadline_at": self.now + 2 * HOUR,
            "max_price_grains": 10 * PRICE,
        }
        receipt = self.ask(self.market.propose_contract, **asked | changes)
        assert receipt.id is not None
        return receipt.id

    def running(self, **changes: Any) -> UUID:
        """A contract that has started."""
        contract_id = self.propose(**changes)
        self.stage.run()
        assert self.contract(contract_id).status == "active"
        return contract_id

    def work(self, contract_id: UUID, ms: int) -> None:
        """So much time passes, in which the service is delivered, as the provider then reports."""
        self.now += timedelta(milliseconds=ms)
        used_ms = self.contract(contract_id).used_ms + ms
        self.ask(self.market.report_usage, contract_id=contract_id, provider_id=None, cumulative_ms=used_ms)
        self.stage.run()

    def delivered(self, ms: int = HOUR_MS, **changes: Any) -> UUID:
        """A contract whose service was delivered for so long, and judged well."""
        contract_id = self.running(**changes)
        for _ in range(ms // TEN_MINUTES):
            self.work(contract_id, TEN_MINUTES)
            self.judge(contract_id)
        if ms % TEN_MINUTES:
            self.work(contract_id, ms % TEN_MINUTES)
        return contract_id

    def resolve(self, contract_id: UUID, action: str) -> None:
        """An operator decides over the parked process of a contract."""
        self.stage.resolve(self.process(contract_id).id, action)

    def judge(self, contract_id: UUID, **times: int) -> None:
        """Evaluate the next window; by default it was well."""
        window = self.contract(contract_id).windows
        self.ask(
            self.market.evaluate_sla_window,
            contract_id=contract_id,
            window=window,
            measured=measured(**times),
            evidence_hash=EVIDENCE,
        )
        self.stage.run()

    def contract(self, contract_id: UUID) -> Contract:
        return self.log.load(Contract, contract_id)

    def offering(self) -> Offering:
        return self.log.load(Offering, self.offering_id)

    def process(self, contract_id: UUID) -> Process:
        return self.log.load(Process, process_id_of(contract_id))

    def settled(self, contract_id: UUID) -> Contract.Settled:
        """The fact that settled a contract."""
        (settled,) = [
            fact.event
            for fact in self.facts()
            if fact.stream == contract_id and isinstance(fact.event, Contract.Settled)
        ]
        return settled

    def balances(self) -> dict[str, int]:
        """What customer, provider, fees and insurance have in transfers, in grains."""
        found: dict[UUID, int] = {}
        for fact in self.facts():
            if isinstance(fact.event, Transfer.Posted):
                for leg in fact.event.legs:
                    found[leg.account] = found.get(leg.account, 0) + leg.grains
        wallets = {"customer": wallet_id_of(self.customer_id), "provider": wallet_id_of(self.provider_id)}
        accounts = wallets | {"fees": FEES, "insurance": INSURANCE}
        return {name: found.get(account, 0) for name, account in accounts.items()}

    def reputation_bp(self) -> int | None:
        """Of the device in the marketplace, None without evidence."""
        found = self.log.find(Reputation, Reputation.create_id(self.device_id, "marketplace"))
        return None if found is None else found.standing.score_bp

    def assert_sound(self) -> None:
        """What must hold of any log with contracts, at the end of every command."""
        facts = self.facts()
        assert_sound(facts)
        assert_capacity_kept(facts)
        assert_holds_add_up(facts)


class MemoryMarket(Market, MemoryEconomy):
    """In memory."""


class StoredMarket(Market, Economy):
    """In a database."""


def assert_capacity_kept(facts: Sequence[Fact]) -> None:
    """At every position no more is reserved of an offering than it has."""
    capacity: dict[UUID, int] = {}
    reserved: dict[UUID, int] = {}
    for fact in facts:
        match fact.event:
            case Offering.Published(capacity=units):
                capacity[fact.stream] = units
            case Offering.CapacityReserved(units=units):
                reserved[fact.stream] = reserved.get(fact.stream, 0) + units
            case Offering.CapacityReleased(units=units):
                reserved[fact.stream] -= units
        assert 0 <= reserved.get(fact.stream, 0) <= capacity.get(fact.stream, 0)


def assert_holds_add_up(facts: Sequence[Fact]) -> None:
    """Captured and released together are what was held; a hold ends at most once, a contract is paid at most once."""
    held: dict[UUID, int] = {}
    for fact in facts:
        match fact.event:
            case Wallet.FundsHeld(hold_id=hold_id, grains=grains):
                assert hold_id not in held
                held[hold_id] = grains
            case Wallet.HoldCaptured(hold_id=hold_id, grains=grains, released=released):
                assert held[hold_id] == grains + released
                held[hold_id] = 0
            case Wallet.HoldVoided(hold_id=hold_id, grains=grains) | Wallet.HoldExpired(hold_id=hold_id, grains=grains):
                assert held[hold_id] == grains
                held[hold_id] = 0
            case Contract.Settled() as settled:
                assert settled.charged_grains == settled.usage_grains - settled.credit_grains
                assert settled.charged_grains == (settled.fee_grains + settled.penalty_grains + settled.provider_grains)
