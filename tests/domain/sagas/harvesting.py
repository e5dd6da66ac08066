"""A village in which devices lend themselves, and are to be paid for it."""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from domain.device_registry.service import DeviceRegistryService
from domain.harvest.audit import Job, answer_of
from domain.harvest.policy import HarvestPolicy
from domain.harvest.service import HarvestService
from domain.harvest.session import HarvestSession
from domain.sagas.deadline import Deadlines
from domain.sagas.operations import SagaOperations
from domain.sagas.process import Process
from domain.sagas.reward_harvest import RewardHarvest, process_id_of
from domain.sagas.village import Village
from tests.devices import enrol
from tests.economy import Books, Economy, MemoryEconomy
from tests.harvesting import lived


class Harvesting(Books):
    """Sessions are lived by the real fold and service; the saga is on a stage."""

    def __init__(self, *where: Any, **policy: Any) -> None:
        super().__init__(*where, **policy)
        self.registry = DeviceRegistryService(self.log)
        self.owners: dict[UUID, UUID] = {}
        self.harvest = HarvestService(self.log, lambda device_id: self.owners.get(device_id))
        deadlines, none = Deadlines(self.log), cast(Any, None)
        plans = [RewardHarvest(deadlines)]
        sagas = SagaOperations(self.log, plans)
        village = Village(self.log, self.registry, self.service, none, none, deadlines, none, sagas, none, self.harvest)
        self.stage = self.staged(plans, village)

    def close(self) -> None:
        self.stage.close()
        super().close()

    def device(self, owner_id: UUID) -> UUID:
        device_id = enrol(self.registry, owner_id=owner_id, now=self.now)
        self.owners[device_id] = owner_id
        return device_id

    def session(self, device_id: UUID, minutes: int = 60, answer: str | None = "right") -> UUID:
        """A session of a phone that was fine for so long, closed; its audit is answered rightly, wrongly or not."""
        ask = self.stage.ask
        opened = ask(
            self.harvest.start_harvest_session, device_id=device_id, policy=HarvestPolicy(),
            sensors=["battery", "power", "temperature", "cpu", "network"],
        )  # fmt: skip
        assert opened.id is not None
        if answer is not None:
            self.answer(opened.id, answer)
        watch, changes = lived(minutes)
        ask(self.harvest.monitor_harvest_conditions, session_id=opened.id, changes=changes)
        self.now += timedelta(minutes=minutes)
        ask(self.harvest.close_session, session_id=opened.id, counted=watch)
        return opened.id

    def answer(self, session_id: UUID, answer: str = "right") -> None:
        session = self.log.load(HarvestSession, session_id)
        job = session.job or Job("00", 0)
        given = answer_of(job) if answer == "right" else answer
        self.stage.ask(self.harvest.answer_audit, session_id=session_id, device_id=session.device_id, answer=given)

    def status(self, session_id: UUID) -> str:
        return self.log.load(HarvestSession, session_id).status

    def process(self, session_id: UUID) -> Process:
        return self.log.load(Process, process_id_of(session_id))


class MemoryHarvesting(Harvesting, MemoryEconomy):
    """In memory."""


class StoredHarvesting(Harvesting, Economy):
    """In a database."""
