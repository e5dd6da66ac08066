"""The mark of a command on a service's method."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from .event_log import EventLog
from .write import Receipt

P = ParamSpec("P")


class _HasLog(Protocol):
    @property
    def log(self) -> EventLog: ...


S = TypeVar("S", bound=_HasLog)


def command(method: Callable[Concatenate[S, P], Receipt]) -> Callable[Concatenate[S, P], Receipt]:
    """Marks a service method as a command: keyword-only, idempotent by key, decided again on a conflict."""

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        return self.log.execute(method.__qualname__, lambda: method(self, *args, **kwargs))

    return run
