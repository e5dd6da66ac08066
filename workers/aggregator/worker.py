"""The aggregator: tails the log, folds updates as they are accepted, and makes a sealed round's new model."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import psycopg
import structlog

from domain.federated_learning.manifest import EvaluationUnfit
from domain.federated_learning.round import ABANDONED, SEALED, RoundNotSealed, RoundOutcomeDiffers, TrainingRound
from domain.federated_learning.service import FederatedLearningService
from domain.federated_learning.session import SessionRoster, TrainingSession
from domain.federated_learning.update import Update
from domain.kernel import CursorMove, EventLog, Fact, Receipt, derive, new_scope, within
from domain.kernel.errors import CursorMoved
from infrastructure.blobs import BlobNotFound, BlobStore
from infrastructure.database import Database, Role
from infrastructure.event_store.reader import LogReader
from workers.pump import follow_log

from .fold import UNREADABLE, RoundFold, UpdateUnreadable

if TYPE_CHECKING:
    from .accumulator import Accumulator

NAME: Final = "aggregator"
POLL_S = 0.25
SAVE_S = 1.0
"""How often a busy log's cursor is saved: what lies behind it may be read again. Of a quiet log it is at once."""
BATCH = 1_000
_LISTENS: Final[tuple[Any, ...]] = (
    TrainingRound.Opened,
    TrainingRound.UpdateAccepted,
    TrainingRound.UpdateRejected,
    TrainingRound.ParticipantLeft,
    TrainingRound.Sealed,
    TrainingRound.Completed,
    TrainingRound.Abandoned,
)
_TOPICS: Final = frozenset(event.TOPIC for event in _LISTENS)
_log = structlog.get_logger()


class Aggregator:
    """Holds one accumulator for each open round (a village runs a bounded number of sessions, with one each).

    What it holds can be lost at any moment: when it starts, it folds the accepted updates of every round that has
    not ended again, which gives the same bits. What it records is named after the round, so that doing it twice is
    doing it once, and so is reading a fact twice.
    """

    def __init__(self, log: EventLog, database: Database, training: FederatedLearningService, blobs: BlobStore) -> None:
        self._log, self._database, self._training, self._blobs = log, database, training, blobs
        self._rounds: dict[UUID, RoundFold] = {}
        self._connection: psycopg.Connection[Any] | None = None
        self._position: int | None = None
        self._cursor = 0
        self._save_at = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Aggregate until told to stop."""
        self._blobs.sweep()
        try:
            follow_log(NAME, self.step, lambda: self._database.connect(Role.READER), POLL_S, stopping)
        finally:
            self.close()

    def run_once(self) -> None:
        """Handle everything that stands now."""
        while self.step():
            pass
        self._save_cursor()

    def step(self) -> bool:
        """Handle one batch; whether there may be more."""
        connection = self._open()
        if self._position is None:
            self._cursor = self._stored_cursor(connection)
            self._recover(connection)
            self._position = self._cursor
        batch = LogReader(connection).after(self._position, BATCH)
        for fact in batch.facts(_TOPICS):
            if fact.position > self._position:
                self._handle(fact)
                self._position = fact.position
        self._position = batch.end
        if not batch.records or time.monotonic() >= self._save_at:
            self._save_cursor()
            self._save_at = time.monotonic() + SAVE_S
        return len(batch.records) >= BATCH

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _handle(self, fact: Fact) -> None:
        match fact.event:
            case TrainingRound.Opened(session_id=session_id, policy=policy):
                self._begin(fact, session_id, policy)
            case TrainingRound.Completed() | TrainingRound.Abandoned():
                self._rounds.pop(fact.stream, None)
            case _ if (fold := self._rounds.get(fact.stream)) is not None:
                self._advance(fact, fold)

    def _recover(self, connection: psycopg.Connection[Any]) -> None:
        """Go through the rounds that have not ended; the cursor may stand anywhere behind their facts or before."""
        self._rounds.clear()
        self._log.cache.drop(SessionRoster.create_id())
        roster = self._log.find(SessionRoster, SessionRoster.create_id())
        for session_id in sorted(roster.going) if roster is not None else ():
            self._log.cache.drop(session_id)
            round_id = self._log.load(TrainingSession, session_id).open_round
            records = [] if round_id is None else LogReader(connection).of_streams([round_id])
            for record in records:
                if record.topic in _TOPICS:
                    self._handle(record.fact())

    def _begin(self, fact: Fact, session_id: UUID, policy: Any) -> None:
        if fact.stream in self._rounds or self._fresh_round(fact.stream).ended:
            return  # read before
        _compute_in_one_thread()
        manifest = self._log.load(TrainingSession, session_id).manifest
        self._rounds[fact.stream] = RoundFold(manifest, policy, self._blobs)

    def _advance(self, fact: Fact, fold: RoundFold) -> None:
        match fact.event:
            case TrainingRound.UpdateAccepted():
                fold.take(fact.event.device_id, _update_of(fact.event))
                if self._fold(fact, fold) is not None:
                    _log.debug("update folded", round=str(fact.stream), updates=len(fold.updates))
            case TrainingRound.UpdateRejected(device_id=device_id) | TrainingRound.ParticipantLeft(device_id=device_id):
                fold.drop(device_id)
            case TrainingRound.Sealed():
                self._finish(fact, fold)

    def _fold(self, fact: Fact, fold: RoundFold) -> "Accumulator | None":
        """Fold what there is, taking out what cannot be read; None when the round did not survive that."""
        for _ in range(len(fold.updates) + 1):
            try:
                return fold.fold()
            except UpdateUnreadable as unreadable:
                self._reject(fact, fold, unreadable)
                if self._fresh_round(fact.stream).state_name == ABANDONED:
                    break
        self._rounds.pop(fact.stream, None)
        return None

    def _finish(self, fact: Fact, fold: RoundFold) -> None:
        sealed = self._fresh_round(fact.stream)
        if sealed.state_name != SEALED:
            return
        for device_id in fold.updates.keys() - set(sealed.survivors):
            fold.drop(device_id)
        for device_id in sealed.survivors:
            fold.take(device_id, sealed.updates[device_id])
        accumulator = self._fold(fact, fold)
        if accumulator is None:
            return
        try:
            model_hash, size = fold.model(sealed.model_hash)
        except UNREADABLE as refusal:
            self._abandon(fact, f"model_unusable:{refusal.code}")
        else:
            self._complete(fact, sealed, accumulator, model_hash, size)
        self._rounds.pop(fact.stream, None)

    def _complete(self, fact: Fact, sealed: TrainingRound, sums: "Accumulator", model_hash: str, size: int) -> None:
        try:
            self._record(
                fact,
                self._training.complete_training_round,
                round_id=fact.stream,
                model_hash=model_hash,
                accumulator_hash=sums.digest(),
                clipped=sums.clipped,
                metrics=self._metrics(sealed, model_hash, size),
            )
            _log.info("round aggregated", round=str(fact.stream), updates=len(sealed.survivors), model=model_hash[:16])
        except (RoundNotSealed, RoundOutcomeDiffers) as refusal:
            _log.warning("the round has ended otherwise", round=str(fact.stream), why=str(refusal))

    def _metrics(self, sealed: TrainingRound, model_hash: str, size: int) -> dict[str, float]:
        session = self._log.load(TrainingSession, sealed.session_id)
        if session.evaluation_hash is None:
            return {}
        from .evaluate import evaluate

        try:
            samples = self._blobs.read(session.evaluation_hash, 0, self._blobs.size(session.evaluation_hash))
            return evaluate(session.manifest, self._blobs.read(model_hash, 0, size), samples)
        except (EvaluationUnfit, BlobNotFound) as refusal:
            _log.warning("the model was not evaluated", round=str(sealed.round_id), why=refusal.code)
            return {}

    def _reject(self, fact: Fact, fold: RoundFold, unreadable: UpdateUnreadable) -> None:
        _log.error("update rejected", round=str(fact.stream), device=str(unreadable.device_id), why=str(unreadable))
        fold.drop(unreadable.device_id)
        self._record(
            fact,
            self._training.reject_update,
            round_id=fact.stream,
            device_id=unreadable.device_id,
            reason=unreadable.reason,
        )

    def _abandon(self, fact: Fact, reason: str) -> None:
        _log.error("round abandoned", round=str(fact.stream), why=reason)
        self._record(fact, self._training.abandon_training_round, round_id=fact.stream, reason=reason)

    def _record(self, fact: Fact, command: Callable[..., Receipt], **arguments: Any) -> Receipt:
        named = derive("aggregator.command", fact.stream, command.__name__, arguments.get("device_id", ""))
        asked = new_scope(
            f"worker:{NAME}", command_id=named, correlation_id=fact.correlation_id, causation_id=fact.event_id
        )
        with within(asked):
            return command(**arguments)

    def _fresh_round(self, round_id: UUID) -> TrainingRound:
        # The API changes rounds in other processes; what is decided here must not rest on an old copy.
        self._log.cache.drop(round_id)
        return self._log.load(TrainingRound, round_id)

    def _save_cursor(self) -> None:
        """Say how far the log has been read; another aggregator's move stands."""
        assert self._position is not None
        if self._position <= self._cursor:
            return
        move = CursorMove(NAME, 0, self._cursor, self._position)
        try:
            with within(new_scope(f"worker:{NAME}")):
                self._log.transact(lambda: None, cursors=(move,), method=NAME)
            self._cursor = self._position
        except CursorMoved:
            self._cursor = self._stored_cursor(self._open())

    def _stored_cursor(self, connection: psycopg.Connection[Any]) -> int:
        row = connection.execute("SELECT position FROM engine.cursors WHERE name = %s", (NAME,)).fetchone()
        return 0 if row is None else int(row[0])

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect(Role.READER)
        return self._connection


def _compute_in_one_thread() -> None:
    """There is memory to wait for, not arithmetic; a second aggregator is the way to use a second core.

    Torch comes with the first round: a village that trains nothing does without it.
    """
    import torch

    torch.set_num_threads(1)


def _update_of(event: Any) -> Update:
    return Update(
        blob_hash=event.blob_hash,
        bytes=event.bytes,
        examples=event.examples,
        train_ms=event.train_ms,
        norm=event.norm,
    )
