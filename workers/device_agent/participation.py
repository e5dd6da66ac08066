"""A device's part in a round, step by step, each step on disk before the next: a crash repeats one step at most."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from uuid import UUID

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from domain.federated_learning.manifest import max_blob_bytes
from domain.federated_learning.statement import sign, statement
from domain.kernel.errors import Refusal
from workers.device_agent.assignment import Assignment
from workers.device_agent.client import ApiRefused, VillageClient
from workers.device_agent.data import Dataset
from workers.device_agent.state import DeviceState, RoundJournal, Stage, file_matches
from workers.device_agent.training import TrainedUpdate, TrainingStopped, train_update, training_seed

_ALREADY_SUBMITTED = frozenset({"update_already_submitted"})
_NOT_ABOUT_THE_UPDATE = frozenset({401})


class Participation:
    """Downloads, trains, uploads and submits for one device, going on where its journal says it was."""

    def __init__(
        self,
        device_id: UUID,
        client: VillageClient,
        state: DeviceState,
        dataset: Dataset,
        executor: Executor,
        stopped: Callable[[], bool],
        log: FilteringBoundLogger,
    ) -> None:
        self._device_id, self._client, self._state, self._dataset = device_id, client, state, dataset
        self._executor, self._stopped, self._log = executor, stopped, log

    async def take_part(self, assignment: Assignment) -> bool:
        """Do what is left of this round; answers False when nothing was left, or when its training was stopped.

        Raises ApiUnavailable, or ApiRefused when the village refuses the device rather than its update.
        """
        journal = self._state.journal(assignment.round_id) or RoundJournal(
            round_id=assignment.round_id,
            number=assignment.number,
            model_hash=assignment.model_hash,
            stage=Stage.ASSIGNED,
        )
        if journal.ended:
            return False
        if assignment.submitted:
            await self._write(journal, Stage.SUBMITTED)
            return False
        try:
            await self._finish(assignment, journal)
        except ApiRefused as refused:
            await self._refused(journal, refused)
        except TrainingStopped:
            self._log.info("the training is done again once the device may work", round=assignment.number)
            return False
        except (Refusal, ValueError) as unfit:
            self._log.warning("this device cannot do the round", round=assignment.number, why=str(unfit))
            await self._write(journal, Stage.REFUSED, reason=type(unfit).__name__)
        return True

    async def _finish(self, assignment: Assignment, journal: RoundJournal) -> None:
        if not await asyncio.to_thread(self._has_update, journal):
            model = await self._download(assignment, journal)
            journal = await self._train(assignment, journal, model)
        if journal.stage is Stage.TRAINED:
            await self._client.put_blob(journal.blob_hash, self._state.update_path(journal.round_id))
            journal = await self._write(journal, Stage.UPLOADED)
        await self._submit(journal)
        await self._write(journal, Stage.SUBMITTED)
        self._log.info(
            "round done",
            round=journal.number,
            examples=journal.examples,
            train_ms=journal.train_ms,
            norm=round(journal.norm, 4),
        )

    def _has_update(self, journal: RoundJournal) -> bool:
        if journal.stage is Stage.UPLOADED:
            return True
        update = self._state.update_path(journal.round_id)
        return journal.stage is Stage.TRAINED and file_matches(update, journal.blob_hash)

    async def _download(self, assignment: Assignment, journal: RoundJournal) -> bytes:
        assignment.check()
        target = self._state.model_path(assignment.model_hash)
        await self._client.fetch_blob(assignment.model_hash, target, max_blob_bytes(assignment.manifest))
        await self._write(journal, Stage.DOWNLOADED)
        return await asyncio.to_thread(target.read_bytes)

    async def _train(self, assignment: Assignment, journal: RoundJournal, model: bytes) -> RoundJournal:
        update = await asyncio.get_running_loop().run_in_executor(self._executor, self._trained, assignment, model)
        await asyncio.to_thread(self._state.save_update, assignment.round_id, update.blob)
        if update.clipped:
            self._log.info("update clipped", round=assignment.number, coordinates=update.clipped)
        return await self._write(
            journal,
            Stage.TRAINED,
            blob_hash=update.blob_hash,
            bytes=len(update.blob),
            examples=update.examples,
            train_ms=update.train_ms,
            norm=update.norm,
        )

    def _trained(self, assignment: Assignment, model: bytes) -> TrainedUpdate:
        return train_update(
            assignment.manifest,
            model,
            self._dataset,
            assignment.training,
            assignment.policy.clip_micro,
            training_seed(assignment.round_id, self._device_id),
            self._stopped,
        )

    async def _submit(self, journal: RoundJournal) -> None:
        figures = {"bytes": journal.bytes, "examples": journal.examples, "train_ms": journal.train_ms}
        stated = statement(round_id=journal.round_id, device_id=self._device_id, blob_hash=journal.blob_hash, **figures)
        body = {
            "round_id": str(journal.round_id),
            "blob_hash": journal.blob_hash,
            "norm": journal.norm,
            "signature": sign(self._state.signing_key, stated),
            **figures,
        }
        try:
            await self._client.command("/v1/federated_learning/submit_update", body, f"submit-{journal.round_id}")
        except ApiRefused as refused:
            if refused.code not in _ALREADY_SUBMITTED:
                raise

    async def _refused(self, journal: RoundJournal, refused: ApiRefused) -> None:
        if refused.status in _NOT_ABOUT_THE_UPDATE or refused.code == "conflict":
            raise refused
        self._log.warning("the village refused the update", round=journal.number, why=str(refused))
        await self._write(journal, Stage.REFUSED, reason=refused.code)

    async def _write(self, journal: RoundJournal, stage: Stage, **changes: object) -> RoundJournal:
        written = replace(journal, stage=stage, **changes)
        await asyncio.to_thread(self._state.write_journal, written)
        return written
