"""A command of a service that is refused, whatever it is asked: the world as it may be, at the edge of a saga."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

from domain.kernel import Refusal
from tests.sagas import Stage


class OutOfOrder(Refusal):
    """Nothing is to be had of it today."""


class Stubborn:
    """A service, but for one command."""

    def __init__(self, service: Any, command: str) -> None:
        self._service = service
        self._command = command

    def __getattr__(self, name: str) -> Any:
        return self._refuse if name == self._command else getattr(self._service, name)

    def _refuse(self, **asked: Any) -> NoReturn:
        raise OutOfOrder(f"{self._command} of {sorted(asked)}")


@contextmanager
def out_of_order(stage: Stage, what: str) -> Iterator[None]:
    """Sagas are refused one command of the village, as `marketplace.release_burst`, for a while."""
    village, (service, command) = stage.village, what.split(".")
    stage.village = replace(village, **{service: Stubborn(getattr(village, service), command)})
    try:
        yield
    finally:
        stage.village = village
