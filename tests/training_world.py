"""A village of tests that trains: real log and clock of the tests, with devices and blobs at hand."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from domain.device_registry.service import DeviceRegistryService
from domain.federated_learning.policy import Limits
from domain.federated_learning.round import TrainingRound
from domain.federated_learning.service import FederatedLearningService
from domain.federated_learning.session import TrainingSession
from domain.harvest.service import HarvestService
from domain.kernel import EventLog, Fact, Receipt
from domain.marketplace.service import MarketplaceService
from domain.monitoring.service import MonitoringService
from domain.privacy.service import PrivacyService
from domain.sagas.coordinate_training import CoordinateTraining
from domain.sagas.deadline import Deadlines
from domain.sagas.operations import SagaOperations
from domain.sagas.village import Village
from domain.tokenomics.service import TokenomicsService
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from tests.memory import MemoryRecorder, memory_log
from tests.memory_stage import MemoryStage
from tests.sagas import Stage
from tests.training import NOW, Everyone, Shelf, arrays, blob_of, norm_of, training_request


class Trainings:
    """Sessions are started, devices answer, time passes; every command goes through the log.

    A subclass says where the log is, and sets `stage`.
    """

    now: datetime
    stage: Stage

    def __init__(self, log: EventLog, devices: int, blobs: Any) -> None:
        self.log = log
        self.shelf: Any = Shelf() if blobs is None else blobs
        self.directory = Everyone(*(UUID(int=number) for number in range(1, devices + 1)))
        self.training = FederatedLearningService(self.log, self.shelf, self.directory, Limits(max_sessions=3))
        self.village = Village(
            log=self.log,
            device_registry=DeviceRegistryService(self.log),
            tokenomics=TokenomicsService(self.log),
            federated_learning=self.training,
            marketplace=MarketplaceService(self.log),
            deadlines=Deadlines(self.log),
            monitoring=MonitoringService(self.log, ()),
            sagas=SagaOperations(self.log),
            privacy=PrivacyService(self.log),
            harvest=HarvestService(self.log),
        )

    def close(self) -> None:
        self.stage.close()

    def ask(self, command: Callable[..., Receipt], **arguments: Any) -> Receipt:
        """Run one command at the world's present instant."""
        return self.stage.ask(command, **arguments)

    def start(self, **changes: Any) -> UUID:
        """Start a session; answers its id."""
        receipt = self.ask(self.training.start_training, **training_request(self.shelf, **changes))
        assert receipt.id is not None
        return receipt.id

    def open_round(self, **changes: Any) -> UUID:
        """Start a session and open its first round, without the saga; answers the round's id."""
        receipt = self.ask(self.training.coordinate_training_round, session_id=self.start(**changes))
        assert receipt.id is not None
        return receipt.id

    def submission(self, round_id: UUID, device_id: UUID, *, seed: int | None = None, **changes: Any) -> dict[str, Any]:
        """The arguments of `submit_update` for a good update, with changes; the update is on the shelf."""
        seed = device_id.int if seed is None else seed
        usual = submission(self.log, self.shelf, round_id, device_id, seed)
        return usual | {"examples": 10 + device_id.int} | changes

    def submit(self, round_id: UUID, device_id: UUID, **changes: Any) -> Receipt:
        """Send a good update, with changes."""
        return self.ask(self.training.submit_update, **self.submission(round_id, device_id, **changes))

    def answer(self, round_id: UUID, devices: int = 3) -> None:
        """The first of the selected devices send their updates."""
        for device_id in self.training.get_selected_participants(round_id=round_id)[:devices]:
            self.submit(round_id, device_id)

    def complete(self, round_id: UUID, model_hash: str = "e" * 64) -> None:
        """What the aggregator would record."""
        self.ask(
            self.training.complete_training_round,
            round_id=round_id,
            model_hash=model_hash,
            accumulator_hash="f" * 64,
            clipped=0,
            metrics={"accuracy": 0.5},
        )

    def pass_time(self, **delta: float) -> None:
        """Let time pass, and everything happen that waits for it."""
        self.stage.wait(**delta)

    def settle(self) -> None:
        """Sagas and deadlines until nothing moves any more."""
        self.stage.run()

    def session(self, session_id: UUID) -> TrainingSession:
        """A session as the log has it now."""
        self.log.cache.drop(session_id)
        return self.log.load(TrainingSession, session_id)

    def opened(self, session_id: UUID) -> UUID:
        """The round a session has open."""
        round_id = self.session(session_id).open_round
        assert round_id is not None
        return round_id

    def round(self, round_id: UUID) -> TrainingRound:
        """A round as the log has it now."""
        self.log.cache.drop(round_id)
        return self.log.load(TrainingRound, round_id)

    def facts(self) -> Sequence[Fact]:
        """Everything the log has."""
        return self.stage.facts()


class TrainingWorld(Trainings):
    """In a database."""

    def __init__(self, url: str, database: Database, devices: int = 4, blobs: Any = None) -> None:
        self.now = NOW
        self.database = database
        super().__init__(open_event_log(url, clock=lambda: self.now), devices, blobs)
        self.stage = Stage(self, [CoordinateTraining], self.village)


class MemoryTrainingWorld(Trainings):
    """In memory."""

    def __init__(self, devices: int = 4) -> None:
        self.now = NOW
        self.recorder = MemoryRecorder(lambda: self.now)
        super().__init__(memory_log(self.recorder), devices, None)
        self.stage = MemoryStage(self, [CoordinateTraining], self.village)


def submission(log: EventLog, shelf: Any, round_id: UUID, device_id: UUID, seed: int = 0) -> dict[str, Any]:
    """The arguments of `submit_update` for a good update, which is put on the shelf."""
    manifest = log.load(TrainingSession, log.load(TrainingRound, round_id).session_id).manifest
    update = arrays(manifest, seed=seed)
    blob = blob_of(update)
    put = getattr(shelf, "put_bytes", None) or shelf.put
    return {
        "device_id": device_id,
        "round_id": round_id,
        "blob_hash": put(blob),
        "bytes": len(blob),
        "examples": 10,
        "train_ms": 20,
        "norm": norm_of(update),
        "signature": "sig",
    }


def nobody() -> UUID:
    """The id of what does not exist."""
    return uuid4()
