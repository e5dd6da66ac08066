"""The village a saga commands: the services of all contexts over one log."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.device_registry.service import DeviceRegistryService
from domain.harvest.service import HarvestService
from domain.kernel import EventLog
from domain.marketplace.service import MarketplaceService
from domain.monitoring.service import MonitoringService
from domain.privacy.service import PrivacyService
from domain.tokenomics.service import TokenomicsService

from .deadline import Deadlines

if TYPE_CHECKING:
    from domain.federated_learning.service import FederatedLearningService

    from .operations import SagaOperations


@dataclass(frozen=True, slots=True)
class Village:
    """Composed once a process, in cli/."""

    log: EventLog
    device_registry: DeviceRegistryService
    tokenomics: TokenomicsService
    federated_learning: "FederatedLearningService"
    marketplace: MarketplaceService
    deadlines: Deadlines
    monitoring: MonitoringService
    sagas: "SagaOperations"
    privacy: PrivacyService
    harvest: HarvestService
