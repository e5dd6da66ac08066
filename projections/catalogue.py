"""Every read model of the village, by context and in one tuple."""

from collections.abc import Mapping
from typing import Any

from . import device_registry, federated_learning, harvest, marketplace, monitoring, privacy, sagas, tokenomics
from .rows import ReadModel

BY_CONTEXT: Mapping[str, tuple[ReadModel[Any], ...]] = {
    "monitoring": monitoring.READ_MODELS,
    "privacy": privacy.READ_MODELS,
    "sagas": sagas.READ_MODELS,
    "device_registry": device_registry.READ_MODELS,
    "federated_learning": federated_learning.READ_MODELS,
    "tokenomics": tokenomics.READ_MODELS,
    "marketplace": marketplace.READ_MODELS,
    "harvest": harvest.READ_MODELS,
}

READ_MODELS: tuple[ReadModel[Any], ...] = tuple(model for models in BY_CONTEXT.values() for model in models)
