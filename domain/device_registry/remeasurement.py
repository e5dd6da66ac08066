"""Measuring again: devices that a public seed chooses show once more what their evidence says they can do."""

import hashlib
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, Refusal, Value, derive, event

from .evidence import CLOCK_TOLERANCE, Evidence, EvidenceTimeInvalid

ANSWER_WITHIN = timedelta(hours=1)
ONE_IN = 7
"""A seed chooses one device in so many."""
BELIEVED_PERCENT = 50
"""A machine that has other work measures less; below so much of what was claimed, the claim is refuted."""
SERVICES: Final = ("federated_learning", "marketplace")
"""The services in which a refuted claim counts against a device: they choose by what is measured."""


class NothingToRemeasure(Refusal):
    """Only a device that brought evidence is asked to measure again."""


class RemeasurementPending(Refusal):
    """A device that is asked to measure again is not asked once more before it answered or its time is over."""


class RemeasurementNotDue(Refusal):
    """A device misses a measurement that it was asked for, when the time for it is over."""


class RemeasurementNotChosen(Refusal):
    """A seed asks the devices that it chooses, each once."""


class Dispute(Value, frozen=True):
    """A quantity of which a device had claimed more than twice what it measured again, in the quantity's unit."""

    quantity: str
    claimed: int
    measured: int


class Remeasurement(Aggregate):
    """What one device was asked to measure again, and what came of it."""

    class Opened(Created):
        device_id: UUID

    class Asked(Aggregate.Event):
        """`seed` chose the device; it is empty when an operator did."""

        device_id: UUID
        seed: str
        claimed: Evidence
        until: Instant

    class Answered(Aggregate.Event):
        device_id: UUID
        disputes: list[Dispute]

    class Missed(Aggregate.Event):
        device_id: UUID
        until: Instant

    @event(Opened)
    def __init__(self, device_id: UUID) -> None:
        self.device_id = device_id
        self.seed = ""
        self.claimed: Evidence | None = None
        self.until: datetime | None = None

    @staticmethod
    def create_id(device_id: UUID) -> UUID:
        return derive("device_registry.Remeasurement", device_id)

    def ask(self, claimed: Evidence | None, seed: str, now: datetime) -> None:
        """Have the device measure again. Raises NothingToRemeasure, RemeasurementPending, RemeasurementNotChosen."""
        if claimed is None:
            raise NothingToRemeasure(f"device {self.device_id} has brought no evidence")
        if self.until is not None:
            raise RemeasurementPending(f"device {self.device_id} may answer until {self.until.isoformat()}")
        if seed and (seed == self.seed or not is_chosen(seed, self.device_id)):
            raise RemeasurementNotChosen(f"device {self.device_id}")
        self._asked(device_id=self.device_id, seed=seed, claimed=claimed, until=now + ANSWER_WITHIN)

    @event(Asked)
    def _asked(self, device_id: UUID, seed: str, claimed: Evidence, until: datetime) -> None:
        self.seed, self.claimed, self.until = seed or self.seed, claimed, until

    def answer(self, measured: Evidence) -> list[Dispute]:
        """Compare what was measured with what was claimed, if the device was asked; answers what does not hold.

        Who comes after its time is over is compared all the same.

        Raises:
            EvidenceTimeInvalid: it was measured before it was asked for.
        """
        if self.claimed is None:
            return []
        if self.until is not None and measured.measured_at < self.until - ANSWER_WITHIN - CLOCK_TOLERANCE:
            raise EvidenceTimeInvalid(f"measured at {measured.measured_at.isoformat()}, before it was asked for")
        found = disputes(self.claimed, measured)
        self._answered(device_id=self.device_id, disputes=found)
        return found

    @event(Answered)
    def _answered(self, device_id: UUID, disputes: list[Dispute]) -> None:
        self.claimed = self.until = None

    def miss(self, now: datetime) -> None:
        """The device has not answered in time. Raises RemeasurementNotDue."""
        if self.until is None or now < self.until:
            raise RemeasurementNotDue(f"device {self.device_id}, now is {now.isoformat()}")
        self._missed(device_id=self.device_id, until=self.until)

    @event(Missed)
    def _missed(self, device_id: UUID, until: datetime) -> None:
        self.until = None


def is_chosen(seed: str, device_id: UUID) -> bool:
    """Whether a seed chooses a device: the first byte of SHA-256("seed|device") is a multiple of ONE_IN."""
    return hashlib.sha256(f"{seed}|{device_id}".encode()).digest()[0] % ONE_IN == 0


def disputes(claimed: Evidence, measured: Evidence) -> list[Dispute]:
    """What does not hold any more of what was claimed. What was not measured again is not disputed, but gone."""
    before, now = _all(claimed), _all(measured)
    return [
        Dispute(name, value, now[name])
        for name, value in sorted(before.items())
        if name in now and now[name] * 100 < value * BELIEVED_PERCENT
    ]


def _all(evidence: Evidence) -> dict[str, int]:
    return {"cpu_cores": evidence.cpu_cores, "ram_mb": evidence.ram_mb, **evidence.quantities}
