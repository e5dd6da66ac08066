"""Every read model of the village, in one tuple."""

from typing import Any

from . import sagas
from .rows import ReadModel

READ_MODELS: tuple[ReadModel[Any], ...] = (*sagas.READ_MODELS,)
