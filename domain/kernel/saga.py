"""The saga base: a process manager that is itself an aggregate, deciding the next step from facts."""

import re
from abc import abstractmethod
from typing import Any, ClassVar, Self
from uuid import UUID

from .aggregate import Aggregate
from .event_log import EventLog
from .fact import Fact


def saga_name(kind: str) -> str:
    """The name of a saga that is a class, as plans are named: `RewardTraining` is `reward_training`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()


class Saga(Aggregate, context="sagas"):
    """Reacts to facts of other contexts by commanding services; all it causes is one transaction with its cursor.

    Its id derives from the event that starts it, and the ids of everything it causes derive from (saga id, step),
    so handling a fact twice is the same as once. It never refuses a fact: it opens what is missing or parks.
    """

    listens: ClassVar[tuple[type[Any], ...]] = ()

    @classmethod
    @abstractmethod
    def route(cls, fact: Fact) -> UUID | None:
        """The id of the saga this fact belongs to, or None when it belongs to none."""

    @classmethod
    @abstractmethod
    def start(cls, fact: Fact) -> Self | None:
        """A new saga for a fact whose saga does not exist yet, or None when this fact starts none."""

    @classmethod
    def concerns(cls, fact: Fact) -> bool:
        """Whether this fact belongs to a saga of this type."""
        return cls.route(fact) is not None

    @classmethod
    def handle(cls, fact: Fact, log: EventLog, village: Any) -> None:
        """Hand a fact to its saga, and record what that decides, inside the runner's transaction."""
        saga_id = cls.route(fact)
        assert saga_id is not None
        saga = log.find(cls, saga_id) or cls.start(fact)
        if saga is not None:
            saga.on(fact, village)
            log.record(saga)

    @abstractmethod
    def on(self, fact: Fact, village: Any) -> None:
        """Decide the next step: call services of the village, trigger own events."""


# As for Aggregate: the library's own creation event would become a topic that nobody records.
del Saga.Created
