"""A village in which one device sells, lends itself and trains, and may be suspended."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from domain.federated_learning.policy import Limits
from domain.federated_learning.round import TrainingRound
from domain.federated_learning.service import FederatedLearningService
from domain.harvest.policy import HarvestPolicy
from domain.harvest.service import HarvestService
from domain.harvest.session import HarvestSession
from domain.kernel import derive
from domain.marketplace.states import ACTIVE
from domain.sagas.operations import SagaOperations
from domain.sagas.process import COMPENSATE, PARKED, RETRY, Process
from domain.sagas.reward_harvest import RewardHarvest
from domain.sagas.suspend_device import ClaimsBehind, ClaimsOfDevice, OfferingsBehind, OfferingsOfDevice, SuspendDevice
from domain.tokenomics.pricing import Activity
from domain.tokenomics.reward_claim import RewardClaim
from projections.marketplace import Offerings
from projections.marketplace.of_device import DeviceOfferings
from projections.tokenomics import RewardClaims
from projections.tokenomics.of_device import DeviceClaims
from tests.devices import enrol
from tests.economy import Economy, MemoryEconomy
from tests.harvesting import lived
from tests.memory_stage import MemoryStage
from tests.trading import HOUR, HOUR_MS, PRICE
from tests.training import Everyone, Shelf, training_request
from tests.training_world import submission

from .paying import Market

SENSORS = ["battery", "power", "temperature", "cpu", "network"]


class Suspending(Market):
    """The saga goes by read models, which are folded after the sagas have run: so they are always late."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self.others = [enrol(self.registry, owner_id=self.provider_id, now=self.now) for _ in range(2)]
        self.owners |= dict.fromkeys(self.others, self.provider_id)
        self.harvest = HarvestService(self.log, lambda device_id: self.owners.get(device_id))
        self.shelf: Any = Shelf()
        directory = Everyone(self.device_id, *self.others)
        self.training = FederatedLearningService(self.log, self.shelf, directory, Limits(max_sessions=60))
        deadlines = self.village.deadlines
        suspend = SuspendDevice(deadlines, *self.ports())
        plans = [self.plan, RewardHarvest(deadlines), suspend]
        self.operations = SagaOperations(self.log, plans)
        self.village = replace(
            self.village, harvest=self.harvest, federated_learning=self.training, sagas=self.operations
        )
        self.stage.projector.close()
        self.stage = self.staged(plans, self.village, [Offerings(), RewardClaims()])

    def ports(self) -> tuple[OfferingsOfDevice, ClaimsOfDevice]:
        """What the saga asks read models."""
        raise NotImplementedError

    def lend(self) -> UUID:
        """The device opens a harvest session."""
        receipt = self.ask(
            self.harvest.start_harvest_session, device_id=self.device_id, policy=HarvestPolicy(), sensors=SENSORS
        )
        assert receipt.id is not None
        return receipt.id

    def lived(self, session_id: UUID) -> None:
        """A minute of the session was fine."""
        watch, changes = lived(1)
        self.ask(self.harvest.monitor_harvest_conditions, session_id=session_id, changes=[*changes, (None, watch)])
        self.now += timedelta(minutes=1)

    def train(self) -> UUID:
        """A round that asks the device and two others."""
        session_id = self.ask(self.training.start_training, **training_request(self.shelf)).id
        assert session_id is not None
        round_id = self.ask(self.training.coordinate_training_round, session_id=session_id).id
        assert round_id is not None
        return round_id

    def suspend(self, reason: str = "sends nonsense") -> UUID:
        """Answers the id of the process that begins."""
        self.ask(self.registry.suspend_device, device_id=self.device_id, reason=reason)
        return derive("sagas.Process", SuspendDevice.name, self.stage.facts()[-1].event_id)

    def submit(self, round_id: UUID, device_id: UUID) -> None:
        """A device sends its update."""
        self.ask(self.training.submit_update, **submission(self.log, self.shelf, round_id, device_id))

    def offered(self) -> None:
        """The device is active and sells again."""
        self.ask(self.registry.reinstate_device, device_id=self.device_id, reason="a drill")
        self.offering_id = self.offer()

    def activated(self, **changes: Any) -> UUID:
        """A contract that runs, without the process that pays for it."""
        contract_id, hold_id = self.propose(**changes), uuid4()
        held = {"owner_id": self.customer_id, "hold_id": hold_id, "grains": PRICE, "contract_id": contract_id}
        self.ask(self.service.hold_funds, **held, expires_at=self.now + 24 * HOUR)
        self.ask(self.market.reserve_capacity, contract_id=contract_id)
        self.ask(self.market.reserve_contract, contract_id=contract_id, hold_id=hold_id)
        self.ask(self.market.activate_contract, contract_id=contract_id)
        return contract_id

    def rival(self, capacity: int = 4) -> UUID:
        """Another device offers the same, at twice the price."""
        return self.offer(capacity, device_id=self.others[0], price_grains_per_hour=2 * PRICE)

    def earned(self) -> UUID:
        """A claim for an hour of the device, that no epoch has paid; answers its id."""
        work = Activity("service_hosting", uuid4(), self.device_id, self.provider_id, HOUR_MS, 10_000)
        claim_id = self.ask(self.service.accrue_reward, activity=work).id
        assert claim_id is not None
        return claim_id

    def claim(self, claim_id: UUID) -> RewardClaim:
        return self.log.load(RewardClaim, claim_id)

    def decide_over_parked(self, *process_ids: UUID) -> None:
        """What time was over for is tried again; where it is too late for that, it is taken back."""
        for process_id in process_ids:
            for action in (RETRY, COMPENSATE):
                if self.suspension(process_id).status == PARKED:
                    assert self.standing(process_id)[1] in ("timed_out", "hold_expired")
                    self.stage.resolve(process_id, action)
                    self.stage.until_quiet()

    def act(self) -> None:
        """The sagas go on until the index has come."""
        self.stage.run()
        self.stage.wait(seconds=1)

    def standing(self, process_id: UUID) -> tuple[str, str]:
        return self.suspension(process_id).status, self.suspension(process_id).reason

    def suspension(self, process_id: UUID) -> Process:
        return self.log.load(Process, process_id)

    def round(self, round_id: UUID) -> TrainingRound:
        return self.log.load(TrainingRound, round_id)

    def assert_idle(self) -> None:
        """Nothing of the device goes on, and nothing of it is sold."""
        for fact in self.stage.facts():
            match fact.topic:
                case "marketplace.Contract.Activated":
                    contract = self.contract(fact.stream)
                    assert contract.status != ACTIVE or contract.terms.device_id != self.device_id
                case "harvest.HarvestSession.SessionAdmitted":
                    assert not self.log.load(HarvestSession, fact.stream).is_open
                case "marketplace.Offering.Published":
                    offering = self.log.load(type(self.offering()), fact.stream)
                    assert offering.withdrawn or offering.device_id != self.device_id
                case "federated_learning.TrainingRound.Opened":
                    one = self.round(fact.stream)
                    assert self.device_id in one.left or one.ended


class StoredSuspending(Suspending, Economy):
    """In a database, and its read models are the real ones."""

    def ports(self) -> tuple[OfferingsOfDevice, ClaimsOfDevice]:
        return DeviceOfferings(self.database), DeviceClaims(self.database)


class MemorySuspending(Suspending, MemoryEconomy):
    """In memory: rows are folded by the real read models, and chosen here."""

    stage: MemoryStage

    def ports(self) -> tuple[OfferingsOfDevice, ClaimsOfDevice]:
        return self._offerings, self._claims

    def _offerings(self, device_id: UUID, at_least: int) -> list[UUID]:
        if self.stage.projector.position < at_least:
            raise OfferingsBehind(str(at_least))
        rows = [row for row in self.stage.projector.rows(Offerings) if row.device_id == device_id]
        return sorted(row.offering_id for row in rows if row.state == "open" or row.reserved)

    def _claims(self, device_id: UUID, at_least: int, limit: int) -> list[UUID]:
        if self.stage.projector.position < at_least:
            raise ClaimsBehind(str(at_least))
        rows = [row for row in self.stage.projector.rows(RewardClaims) if row.device_id == device_id]
        return [row.claim_id for row in rows if row.state == "pending"][:limit]
