"""The village put together: every context's service on one log, with its ports and the sagas between them."""

from functools import partial

from cli.harvest_ports import RestingDevices
from cli.ports import DeviceOwners, DeviceResources, OwnerFlows, Participants, PresentDevices
from domain.device_registry.service import DeviceRegistryService
from domain.federated_learning.policy import Limits
from domain.federated_learning.service import FederatedLearningService
from domain.harvest.service import HarvestService
from domain.kernel import EventLog
from domain.marketplace.service import MarketplaceService
from domain.monitoring.service import MonitoringService
from domain.privacy.service import PrivacyService
from domain.sagas.allocate_burst import AllocateBurst
from domain.sagas.deadline import Deadlines
from domain.sagas.forfeit import which_forfeit
from domain.sagas.hand_off_contract import HandOffContract
from domain.sagas.operations import SagaOperations
from domain.sagas.pay_for_service import PayForService, PaymentPolicy
from domain.sagas.plan import Plan
from domain.sagas.reward_harvest import RewardHarvest
from domain.sagas.spend_privacy import SpendPrivacy
from domain.sagas.suspend_device import SuspendDevice
from domain.sagas.village import Village
from domain.tokenomics.pricing import Policy
from domain.tokenomics.service import TokenomicsService
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.settings import Settings
from projections.catalogue import READ_MODELS
from projections.device_index import DeviceIndex
from projections.federated_learning import Participations
from projections.letters import DeadLetters
from projections.marketplace.of_device import DeviceOfferings
from projections.matching import OfferingIndex
from projections.privacy_budgets import ExhaustedBudgets
from projections.tokenomics.flows import FlowIndex
from projections.tokenomics.of_device import DeviceClaims
from projections.tokenomics.queries import RewardIndex


def assemble(settings: Settings, database: Database, log: EventLog, blobs: BlobStore) -> Village:
    """The services of all contexts."""
    devices, owners, deadlines = DeviceIndex(database), DeviceOwners(log), Deadlines(log)
    participants = Participants(devices, Participations(database), ExhaustedBudgets(database, settings.epsilon_micro))
    limits = Limits(settings.max_participants_per_round, settings.max_model_bytes)
    return Village(
        log=log,
        device_registry=DeviceRegistryService(log, devices),
        tokenomics=TokenomicsService(log, policy_of(settings), RewardIndex(database), partial(which_forfeit, log)),
        federated_learning=FederatedLearningService(log, blobs, participants, limits),
        harvest=HarvestService(log, owners),
        marketplace=MarketplaceService(
            log,
            owners,
            OfferingIndex(database),
            DeviceResources(log),
            RestingDevices(log),
            OwnerFlows(FlowIndex(database)),
            PresentDevices(log),
        ),
        deadlines=deadlines,
        monitoring=MonitoringService(log, [model.name for model in READ_MODELS], DeadLetters(database)),
        sagas=SagaOperations(log, _plans(settings, database, deadlines)),
        privacy=PrivacyService(log),
    )


def _plans(settings: Settings, database: Database, deadlines: Deadlines) -> list[Plan]:
    """The sagas that are plans of steps."""
    payments = payments_of(settings)
    return [
        PayForService(deadlines, payments),
        AllocateBurst(deadlines, payments),
        HandOffContract(deadlines),
        RewardHarvest(deadlines),
        SuspendDevice(deadlines, DeviceOfferings(database), DeviceClaims(database)),
        SpendPrivacy(deadlines, settings.epsilon_micro),
    ]


def policy_of(settings: Settings) -> Policy:
    """The economy that the settings describe."""
    return Policy.of(
        initial_token_supply=settings.initial_token_supply,
        harvest_reward_rate=settings.harvest_reward_rate,
        fl_participation_bonus=settings.fl_participation_bonus,
        marketplace_fee_percent=settings.marketplace_fee_percent,
        epoch_hours=settings.reward_epoch_hours,
        epoch_budget_tokens=settings.reward_epoch_budget_tokens,
    )


def payments_of(settings: Settings) -> PaymentPolicy:
    """How payments for services are tried, by the settings."""
    retries = settings.max_payment_retries if settings.retry_failed_payments else 0
    return PaymentPolicy(settings.payment_timeout_seconds * 1_000, retries)
