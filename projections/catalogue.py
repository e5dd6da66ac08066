"""Every read model of the village, in one tuple."""

from typing import Any

from . import device_registry, sagas, tokenomics
from .rows import ReadModel

READ_MODELS: tuple[ReadModel[Any], ...] = (*sagas.READ_MODELS, *device_registry.READ_MODELS, *tokenomics.READ_MODELS)
