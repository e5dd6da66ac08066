"""A history of a whole village for benchmarks: devices, training, rewards, payments and presence, as they come."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID, uuid5

from benchmarks.history import NAMESPACE, row
from domain.device_registry.capabilities import Capabilities
from domain.device_registry.device import Device
from domain.device_registry.reputation import Reputation
from domain.federated_learning.manifest import ModelManifest, TensorSpec
from domain.federated_learning.policy import ParticipantCriteria, RoundPolicy, TrainingConfig
from domain.federated_learning.round import TrainingRound
from domain.federated_learning.session import TrainingSession
from domain.sagas.coordinate_training import CoordinateTraining
from domain.sagas.deadline import Deadline
from domain.sagas.reward_training import RewardTraining
from domain.tokenomics.accounts import FEES, TREASURY
from domain.tokenomics.reward_claim import RewardClaim
from domain.tokenomics.reward_epoch import RewardEpoch
from domain.tokenomics.transfer import Leg, Transfer
from domain.tokenomics.wallet import Wallet

DEVICES = 2_000
OF_A_ROUND = 20
PAYMENTS_A_ROUND = 10
CHANGES_A_ROUND = 16
ROUNDS_OF_A_SESSION = 10
_PRIZE, _PRICE, _FEE, _WEALTH = 500, 100, 2, 10**9
_AT = datetime(2026, 1, 1, tzinfo=UTC)
_HASH = "0" * 64
_SERVICE = "federated_learning"
_MANIFEST = ModelManifest("mlp", [4, 2], [TensorSpec("weight", [4, 2], "float32")], 32)


def mixture(count: int) -> Iterator[tuple[Any, ...]]:
    """That many rows of the log: every device enrols and gets money, then session follows session.

    In a round 20 devices train, are weighed and are paid in one transfer; meanwhile 10 payments are held and captured
    and 16 devices come and go.
    """
    versions = Counter[UUID]()
    for position, event in enumerate(islice(_village(), count), 1):
        versions[event.originator_id] += 1
        yield row(position, event, versions[event.originator_id])


def _village() -> Iterator[Any]:
    for number in range(DEVICES):
        yield from _joined(number)
    epoch = _id("epoch", 1)
    yield RewardEpoch.fact(
        RewardEpoch.Opened, epoch, epoch_id=epoch, number=1, budget=10**15, starts_at=_AT, ends_at=_AT + timedelta(1)
    )
    number = 0
    while True:
        session = _id("session", number)
        yield from _session(session)
        for of_session in range(1, ROUNDS_OF_A_SESSION + 1):
            number += 1
            yield from _round(session, number, of_session, epoch)
            for payment in range(number * PAYMENTS_A_ROUND, (number + 1) * PAYMENTS_A_ROUND):
                yield from _payment(payment)
            for change in range(number * CHANGES_A_ROUND, (number + 1) * CHANGES_A_ROUND):
                yield _presence(change)
        yield TrainingSession.fact(TrainingSession.Completed, session, model_hash=_HASH)


def _joined(number: int) -> Iterator[Any]:
    device, owner, wallet = _device(number), _id("owner", number), _wallet(number)
    yield Device.fact(
        Device.ClaimIssued, device, device_id=device, owner_id=owner, claim_sha256=_HASH, expires_at=_AT + timedelta(1)
    )
    yield Device.fact(
        Device.Enrolled,
        device,
        device_id=device,
        owner_id=owner,
        device_type="laptop",
        ed25519_pub=f"{number:064x}",
        x25519_pub=f"{number:064x}",
        region="eu",
        capabilities=Capabilities(8_192, 8, 1_000 + number, ["pytorch"], ["training"], "b1"),
        enrolled_at=_AT,
    )
    reputation = Reputation.create_id(device, _SERVICE)
    yield Reputation.fact(Reputation.Opened, reputation, device_id=device, service=_SERVICE)
    yield Wallet.fact(Wallet.Opened, wallet, wallet_id=wallet, owner_id=owner)
    yield from _transfer(_id("gift", number), "genesis", {TREASURY: -_WEALTH, wallet: _WEALTH})


def _session(session: UUID) -> Iterator[Any]:
    saga = uuid5(session, "saga")
    yield TrainingSession.fact(
        TrainingSession.Created,
        session,
        session_id=session,
        owner_id=_id("owner", 1),
        name="digits",
        manifest=_MANIFEST,
        base_model_hash=_HASH,
        evaluation_hash=None,
        strategy="fedavg",
        round_policy=RoundPolicy(),
        rounds=ROUNDS_OF_A_SESSION,
        training=TrainingConfig(2, 20, 0.1),
        criteria=ParticipantCriteria(),
    )
    yield TrainingSession.fact(TrainingSession.Started, session)
    yield CoordinateTraining.fact(CoordinateTraining.Started, saga, saga_id=saga, session_id=session)


def _round(session: UUID, number: int, of_session: int, epoch: UUID) -> Iterator[Any]:
    round_id, saga = _id("round", number), uuid5(session, "saga")
    token = _id("token", number)
    members = range(number * OF_A_ROUND, (number + 1) * OF_A_ROUND)
    devices = [_device(member) for member in members]
    yield TrainingSession.fact(TrainingSession.RoundBegun, session, round_id=round_id, number=of_session)
    yield TrainingRound.fact(
        TrainingRound.Opened,
        round_id,
        round_id=round_id,
        session_id=session,
        owner_id=_id("owner", 1),
        number=of_session,
        model_hash=_HASH,
        policy=RoundPolicy(),
        deadline_at=_AT,
        seed=number,
        opened_at=_AT,
    )
    yield TrainingRound.fact(
        TrainingRound.ParticipantsSelected,
        round_id,
        device_ids=devices,
        snapshot_position=1,
        ruleset_hash=_HASH,
        refused={"min_ram_mb": 3},
    )
    yield Deadline.fact(Deadline.Set, token, token=token, saga_id=saga, kind="round", due_at=_AT)
    yield CoordinateTraining.fact(
        CoordinateTraining.RoundAwaited, saga, round_id=round_id, number=of_session, token=token
    )
    for device in devices:
        yield TrainingRound.fact(
            TrainingRound.UpdateAccepted,
            round_id,
            device_id=device,
            blob_hash=_HASH,
            bytes=1_000,
            examples=60,
            train_ms=900,
            norm=0.5,
            signature="0" * 128,
            accepted_at=_AT,
        )
    yield TrainingRound.fact(TrainingRound.Sealed, round_id, survivors=devices, dropped=[])
    yield TrainingRound.fact(TrainingRound.Aggregated, round_id, model_hash=_HASH, accumulator_hash=_HASH, clipped=0)
    yield TrainingRound.fact(
        TrainingRound.Completed,
        round_id,
        session_id=session,
        number=of_session,
        participants=devices,
        model_metrics={"accuracy": 0.9},
        privacy_budget_consumed=0.0,
        duration_ms=30_000,
    )
    yield TrainingSession.fact(TrainingSession.ModelAdvanced, session, number=of_session, model_hash=_HASH)
    yield CoordinateTraining.fact(CoordinateTraining.RoundEnded, saga, round_id=round_id, lost=False)
    yield Deadline.fact(Deadline.Elapsed, token, token=token, saga_id=saga, kind="round")
    yield from _rewards(round_id, members, epoch)


def _rewards(round_id: UUID, members: range, epoch: UUID) -> Iterator[Any]:
    saga, transfer = uuid5(round_id, "saga"), uuid5(round_id, "rewards")
    claims = {member: uuid5(round_id, str(member)) for member in members}
    yield RewardTraining.fact(
        RewardTraining.Started, saga, saga_id=saga, round_id=round_id, quality_rule="even", cause_event_id=saga
    )
    for member in members:
        yield Reputation.fact(
            Reputation.EvidenceRecorded,
            Reputation.create_id(_device(member), _SERVICE),
            device_id=_device(member),
            service=_SERVICE,
            good=True,
            weight_bp=10_000,
            cause_event_id=saga,
            rule_version=1,
        )
    for member, claim in claims.items():
        yield RewardClaim.fact(
            RewardClaim.Accrued,
            claim,
            claim_id=claim,
            device_id=_device(member),
            owner_id=_id("owner", member % DEVICES),
            wallet_id=_wallet(member),
            activity_type="fl_participation",
            activity_id=round_id,
            verified_ms=30_000,
            quality_bp=10_000,
            multiplier_bp=10_000,
            rate_grains_per_hour=60_000,
            rule_version="1",
            carry=0,
            grains=_PRIZE,
            cause_event_id=saga,
        )
    yield RewardTraining.fact(RewardTraining.RewardsAccrued, saga, step=1, claim_ids=list(claims.values()), remaining=0)
    paid = OF_A_ROUND * _PRIZE
    yield RewardEpoch.fact(RewardEpoch.BudgetReserved, epoch, reservation_id=transfer, grains=paid)
    legs = {TREASURY: -paid, **{_wallet(member): _PRIZE for member in members}}
    yield from _transfer(transfer, "reward", legs)
    for member, claim in claims.items():
        yield RewardClaim.fact(
            RewardClaim.Posted,
            claim,
            claim_id=claim,
            device_id=_device(member),
            grains=_PRIZE,
            transfer_id=transfer,
            epoch_id=epoch,
        )
    yield RewardTraining.fact(
        RewardTraining.RewardsPosted, saga, step=2, transfer_id=transfer, claims=OF_A_ROUND, posted=OF_A_ROUND, left=[]
    )
    yield RewardTraining.fact(RewardTraining.Completed, saga, step=3, claims=OF_A_ROUND)


def _payment(number: int) -> Iterator[Any]:
    hold, payer, payee = _id("hold", number), _wallet(number * 7), _wallet(number * 7 + 1)
    yield Wallet.fact(Wallet.FundsHeld, payer, hold_id=hold, grains=_PRICE, expires_at=_AT, purpose="job")
    yield Wallet.fact(Wallet.HoldCaptured, payer, hold_id=hold, grains=_PRICE, released=0)
    yield from _transfer(hold, "hold_capture", {payer: -_PRICE, payee: _PRICE - _FEE, FEES: _FEE})


def _transfer(transfer: UUID, kind: str, moved: dict[UUID, int]) -> Iterator[Any]:
    """The transfer, and a credit for each wallet that gains."""
    legs = sorted([Leg(account, grains) for account, grains in moved.items()], key=lambda leg: leg.account)
    yield Transfer.fact(
        Transfer.Posted, transfer, transfer_id=transfer, kind=kind, legs=legs, memo=None, note="", cause_event_id=None
    )
    for account, grains in moved.items():
        if grains > 0 and account != FEES:
            yield Wallet.fact(Wallet.Credited, account, transfer_id=transfer, grains=grains)


def _presence(number: int) -> Any:
    device = _device(number * 13)
    if number % 8 == 0:
        return Device.fact(Device.LatencyClassChanged, device, latency_ms=number % 50)
    if number % 2:
        return Device.fact(Device.WentOnline, device, seen_at=_AT)
    return Device.fact(Device.WentOffline, device, last_seen_at=_AT)


def _device(number: int) -> UUID:
    return _id("device", number % DEVICES)


def _wallet(number: int) -> UUID:
    return _id("wallet", number % DEVICES)


def _id(what: str, number: int) -> UUID:
    return uuid5(NAMESPACE, f"{what} {number}")
