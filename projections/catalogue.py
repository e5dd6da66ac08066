"""Every read model of the village, in one tuple."""

from typing import Any

from . import device_registry, federated_learning, harvest, marketplace, monitoring, privacy, sagas, tokenomics
from .rows import ReadModel

READ_MODELS: tuple[ReadModel[Any], ...] = (
    *monitoring.READ_MODELS,
    *privacy.READ_MODELS,
    *sagas.READ_MODELS,
    *device_registry.READ_MODELS,
    *federated_learning.READ_MODELS,
    *tokenomics.READ_MODELS,
    *marketplace.READ_MODELS,
    *harvest.READ_MODELS,
)
