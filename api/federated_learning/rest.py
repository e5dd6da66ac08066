"""Federated learning over REST: sessions for their owners, assignments and updates for devices."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.edge.commands import Body, Sha256Hex, ShortText, answer, run_command
from api.edge.context import ApiContext
from api.edge.gate import Caller, GatedRoute, allow
from api.edge.principals import Principal
from domain.federated_learning import policy as rules
from domain.federated_learning.manifest import MAX_LAYERS, MAX_TENSORS, ModelManifest
from domain.federated_learning.policy import ParticipantCriteria, RoundPolicy, TrainingConfig
from domain.federated_learning.statement import check_signature, statement
from domain.federated_learning.update import MAX_EXAMPLES, MAX_SIGNATURE, MAX_TRAIN_MS
from domain.kernel import Receipt, derive
from domain.kernel.errors import Forbidden
from infrastructure.settings import Settings

from .assignments import round_assignments

MAX_WAIT_MS = 20_000
Count = Annotated[int, Field(strict=True, ge=0, le=2**40)]
Size = Annotated[int, Field(strict=True, ge=0, le=2**62)]
Shape = Annotated[list[Annotated[int, Field(strict=True, ge=0, le=2**31)]], Field(max_length=8)]


class TensorBody(Body):
    """One tensor, its shape row-major, its element type as safetensors writes it."""

    name: ShortText
    shape: Shape
    dtype: Annotated[str, Field(max_length=16)] = "F32"


class ManifestBody(Body):
    """The tensors of the model, sorted by name, and the bytes they take together."""

    architecture: ShortText
    layers: Annotated[list[Count], Field(max_length=MAX_LAYERS)]
    tensors: Annotated[list[TensorBody], Field(max_length=MAX_TENSORS)]
    bytes: Size


class RoundPolicyBody(Body):
    """What is left out is the village's setting. `clip_micro` is the largest change of one weight, times 10^6."""

    min_participants: Count | None = None
    max_participants: Count | None = None
    goal: Count | None = None
    timeout_ms: Annotated[int, Field(strict=True, ge=0, le=rules.MAX_TIMEOUT_MS)] | None = None
    clip_micro: Count = 1_000_000
    weight_cap: Count = 10_000

    def value(self, settings: Settings) -> RoundPolicy:
        """The policy; without a goal a round waits for everybody."""
        most = settings.max_participants_per_round if self.max_participants is None else self.max_participants
        least = settings.min_participants_per_round if self.min_participants is None else self.min_participants
        return RoundPolicy(
            min_participants=least,
            max_participants=most,
            goal=most if self.goal is None else self.goal,
            timeout_ms=settings.round_timeout_ms if self.timeout_ms is None else self.timeout_ms,
            clip_micro=self.clip_micro,
            weight_cap=self.weight_cap,
        )


class TrainingBody(Body):
    """How a device trains in one round. `proximal_mu` above 0 is FedProx."""

    epochs: Count
    batch_size: Count
    learning_rate: float
    momentum: float = 0.0
    proximal_mu: float = 0.0


class CriteriaBody(Body):
    """Memory in MiB, compute score in milli-units, reputation in basis points; MFLOP/s and MB/s that the device has to
    have measured. What is left out is not asked.
    """

    min_memory_mb: Count | None = None
    min_compute_capability: Count | None = None
    required_frameworks: Annotated[list[ShortText], Field(max_length=8)] = ["pytorch"]
    min_trust_level: Count | None = None
    min_matrix_mflops: Count | None = None
    min_memory_mb_s: Count | None = None
    min_disk_mb_s: Count | None = None


class StartTraining(Body):
    """`secure_aggregation` and `epsilon` are on by the village's settings, so a session without them says so."""

    name: ShortText
    manifest: ManifestBody
    base_model_hash: Sha256Hex
    evaluation_hash: Sha256Hex | None = None
    rounds: Count
    strategy: ShortText = "fedavg"
    round_policy: RoundPolicyBody = RoundPolicyBody()
    training: TrainingBody
    criteria: CriteriaBody = CriteriaBody()
    secure_aggregation: bool | None = None
    epsilon: Annotated[float, Field(gt=0)] | None = None
    owner_id: UUID | None = None


class SessionBody(Body):
    """Which session."""

    session_id: UUID


class AbandonTraining(SessionBody):
    """Why it is given up."""

    reason: ShortText = "abandoned by its owner"


class SubmitUpdate(Body):
    """An uploaded update: its hash and length in bytes, examples trained on, CPU time in ms, Euclidean norm.

    `signature` is the device's (Ed25519, base64) over the `statement` of domain/federated_learning/statement.py.
    """

    round_id: UUID
    blob_hash: Sha256Hex
    bytes: Size
    examples: Annotated[int, Field(strict=True, ge=1, le=MAX_EXAMPLES)]
    train_ms: Annotated[int, Field(strict=True, ge=0, le=MAX_TRAIN_MS)]
    norm: Annotated[float, Field(ge=0)]
    signature: Annotated[str, Field(min_length=1, max_length=MAX_SIGNATURE)]


def router(ctx: ApiContext) -> APIRouter:
    """The routes of federated learning."""
    routes = APIRouter(prefix="/v1/federated_learning", route_class=GatedRoute, tags=["federated_learning"])
    training = ctx.village.federated_learning

    @routes.post("/start_training")
    @allow("operator", "member", body_bytes=256 * 1024)
    async def start_training(request: Request, caller: Caller, body: StartTraining) -> Response:
        """Create and start a training session; its rounds open by themselves."""
        arguments = _start(ctx.settings, body) | {"owner_id": _owner(caller, body.owner_id)}
        return await run_command(ctx, request, training.start_training, key_required=True, **arguments)

    def on_session(name: str, command: Callable[..., Receipt], summary: str) -> None:
        @routes.post(f"/{name}", name=name, description=summary)
        @allow("operator", "member")
        async def change(request: Request, caller: Caller, body: SessionBody) -> Response:
            await _own(ctx, caller, body.session_id)
            return await run_command(ctx, request, command, session_id=body.session_id)

    on_session("pause_training", training.pause_training, "Open no further rounds until resumed.")
    on_session("resume_training", training.resume_training, "Open rounds again.")

    @routes.post("/abandon_training")
    @allow("operator", "member")
    async def abandon_training(request: Request, caller: Caller, body: AbandonTraining) -> Response:
        """End a session, and the round it has open, without a result."""
        await _own(ctx, caller, body.session_id)
        command = training.abandon_training
        return await run_command(ctx, request, command, session_id=body.session_id, reason=body.reason)

    @routes.post("/coordinate_training_round")
    @allow("operator")
    async def coordinate_training_round(request: Request, body: SessionBody) -> Response:
        """Open the next round of a session now; usually the village does it by itself."""
        return await run_command(ctx, request, training.coordinate_training_round, session_id=body.session_id)

    _device_routes(ctx, routes)
    return routes


def _device_routes(ctx: ApiContext, routes: APIRouter) -> None:
    assignments = round_assignments(ctx)

    @routes.get("/assignment", responses={204: {"description": "No round to work on."}})
    @allow("device")
    async def assignment(
        request: Request, caller: Caller, wait_ms: Annotated[int, Query(ge=0, le=MAX_WAIT_MS)] = 0
    ) -> Response:
        """The round this device has to work on, waiting up to `wait_ms` for one."""
        found = await assignments.next(request.app.state.feed, caller.device_id, wait_ms)
        return Response(status_code=204) if found is None else answer(dict(found))

    @routes.post("/submit_update")
    @allow("device")
    async def submit_update(request: Request, caller: Caller, body: SubmitUpdate) -> Response:
        """Send an update that was uploaded before. The last one a round waits for also seals it."""
        update = {"device_id": caller.device_id, **body.model_dump()}
        await ctx.in_command_thread(lambda: _check_signed(ctx, update))
        return await run_command(ctx, request, ctx.village.federated_learning.submit_update, **update)


def _check_signed(ctx: ApiContext, update: Mapping[str, Any]) -> None:
    device = ctx.devices(update["device_id"])
    assert device is not None, "the gate lets in no device that is not enrolled"
    said = {name: value for name, value in update.items() if name not in ("norm", "signature")}
    check_signature(device.public_key, update["signature"], statement(**said))


def _start(settings: Settings, body: StartTraining) -> dict[str, Any]:
    epsilon = body.epsilon if "epsilon" in body.model_fields_set else settings.differential_privacy_epsilon
    secure = settings.secure_aggregation_enabled if body.secure_aggregation is None else body.secure_aggregation
    return {
        "name": body.name,
        "manifest": msgspec.convert(body.manifest.model_dump(), ModelManifest),
        "base_model_hash": body.base_model_hash,
        "evaluation_hash": body.evaluation_hash,
        "rounds": body.rounds,
        "strategy": body.strategy,
        "round_policy": body.round_policy.value(settings),
        "training": msgspec.convert(body.training.model_dump(), TrainingConfig),
        "criteria": msgspec.convert(body.criteria.model_dump(), ParticipantCriteria),
        "secure_aggregation": secure,
        "epsilon": epsilon,
    }


def _owner(caller: Principal, named: UUID | None) -> UUID:
    """Members own what they start; an operator starts for whom it names, or in its own name."""
    if caller.role == "operator":
        return named or derive("edge.operator", caller.subject)
    assert caller.owner is not None, f"{caller.actor} has no owner"
    if named is not None and named != caller.owner:
        raise Forbidden("owner_id is somebody else")
    return caller.owner


async def _own(ctx: ApiContext, caller: Principal, session_id: UUID) -> None:
    """Raises Forbidden when a member names somebody else's session, TrainingSessionUnknown when there is none."""
    owner = await ctx.in_command_thread(lambda: ctx.village.federated_learning.owner_of(session_id=session_id))
    if caller.role != "operator" and caller.owner != owner:
        raise Forbidden("the session is somebody else's")
