"""Spend privacy: what a round asks of a device's budget is reserved as it is selected, and committed or released after.

A budget is kept for a device, or for its owner and then for all the owner's devices together; who has none is asked
without limit.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from domain.device_registry.device import Device
from domain.device_registry.status import ACTIVE
from domain.federated_learning.round import COMPLETED, OPEN, TrainingRound
from domain.kernel import Conflict, Fact, Refusal, derive
from domain.privacy.budget import PrivacyBudget

from .deadline import Deadlines
from .plan import Plan, Step
from .process import Process
from .village import Village

PURPOSE = "federated_learning"
REASON = "privacy_budget_exhausted"
MAX_PATIENCE = timedelta(hours=1)
"""How long a process that is retried after its time waits for its round."""
MAX_DEVICES = 250
"""Devices handled in one transaction."""


class RoundNotOver(Refusal):
    """What a round has reserved is spent or released once the round is over."""


class SpendPrivacy(Plan):
    """Begins when the participants of a round are selected; each costs `epsilon_micro` of its budgets.

    A device whose budget does not give so much leaves the round. Where the round is over before that, what it has
    given cannot be taken back: its budget is exhausted. A device that was suspended or retired as it was selected,
    by an index that had not heard of it, leaves an open round, too; one that is later is seen to by `suspend_device`.
    """

    name = "spend_privacy"
    timeout_ms = 48 * 3_600_000
    begins_on = (TrainingRound.ParticipantsSelected,)
    wakes_on = (TrainingRound.Completed, TrainingRound.Abandoned)

    def __init__(self, deadlines: Deadlines, epsilon_micro: int) -> None:
        self._epsilon_micro = epsilon_micro
        self.steps = (
            Step("reserve", self._reserve, _release, parks=True),
            Step("settle", self._settle, awaits=_ended_by, parks=True),
        )
        super().__init__(deadlines)

    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        return {"round_id": str(fact.stream)}

    def process_of(self, fact: Fact) -> UUID:
        return privacy_process_id_of(fact.stream)

    def _reserve(self, process: Process, village: Village) -> bool:
        asked = _round(process, village)
        chosen, more = _part(process, asked)
        for device_id in chosen:
            device = village.log.find(Device, device_id)
            if asked.state_name == OPEN and device is not None and device.status != ACTIVE:
                reason = f"device_{device.status}"
                village.federated_learning.leave_training(device_id=device_id, reason=reason, round_id=asked.id)
                continue
            subjects = [subject_id for subject_id, _ in _budgets(device_id, village)]
            try:
                village.log.tentatively(lambda: self._reserve_all(process, village, device_id, subjects))  # noqa: B023
            except Conflict:
                raise
            except Refusal:
                if asked.state_name == OPEN:
                    village.federated_learning.leave_training(device_id=device_id, reason=REASON, round_id=asked.id)
                    continue
                for subject_id in subjects:
                    village.privacy.exhaust_budget(subject_id=subject_id, purpose=PURPOSE)
        return more

    def _reserve_all(self, process: Process, village: Village, device_id: UUID, subjects: list[UUID]) -> None:
        for subject_id in subjects:
            village.privacy.reserve_budget(
                subject_id=subject_id, purpose=PURPOSE, reservation_id=_reservation(process, device_id),
                epsilon_micro=self._epsilon_micro,
            )  # fmt: skip

    def _settle(self, process: Process, village: Village) -> bool:
        asked = _round(process, village)
        if not asked.ended:
            raise RoundNotOver(f"round {asked.id}")
        aggregated = set(asked.survivors) if asked.state_name == COMPLETED else set()
        chosen, more = _part(process, asked)
        for device_id in chosen:
            _end(process, village, device_id, spent=device_id in aggregated)
        return more


def privacy_process_id_of(round_id: UUID) -> UUID:
    """The id of the process that spends privacy for a round."""
    return derive("sagas.Process", SpendPrivacy.name, round_id)


def _round(process: Process, village: Village) -> TrainingRound:
    return village.log.load(TrainingRound, UUID(process.subject["round_id"]))


def _part(process: Process, asked: TrainingRound) -> tuple[list[UUID], bool]:
    """The devices of this transaction, and whether there are more."""
    start, devices = process.parts * MAX_DEVICES, sorted(asked.selected)
    return devices[start : start + MAX_DEVICES], start + MAX_DEVICES < len(devices)


def _reservation(process: Process, device_id: UUID) -> UUID:
    return process.step_id(str(device_id))


def _budgets(device_id: UUID, village: Village) -> Iterator[tuple[UUID, PrivacyBudget]]:
    """The budgets of a device and of its owner, as far as there are any."""
    device = village.log.find(Device, device_id)
    for subject_id in (device_id,) if device is None else (device_id, device.owner_id):
        budget = village.log.find(PrivacyBudget, PrivacyBudget.create_id(subject_id, PURPOSE))
        if budget is not None:
            yield subject_id, budget


def _ended_by(process: Process, village: Village) -> datetime | None:
    return None if _round(process, village).ended else process.due_at + MAX_PATIENCE


def _release(process: Process, village: Village) -> None:
    for device_id in sorted(_round(process, village).selected):
        _end(process, village, device_id, spent=False)


def _end(process: Process, village: Village, device_id: UUID, *, spent: bool) -> None:
    """Commit or release what is still reserved for a device; an operator may have ended it before."""
    reservation_id = _reservation(process, device_id)
    for subject_id, budget in _budgets(device_id, village):
        reserved = budget.open.get(reservation_id)
        named: dict[str, Any] = {"subject_id": subject_id, "purpose": PURPOSE, "reservation_id": reservation_id}
        if reserved is not None and spent:
            village.privacy.commit_budget(**named, epsilon_micro=reserved)
        elif reserved is not None:
            village.privacy.release_budget(**named)
