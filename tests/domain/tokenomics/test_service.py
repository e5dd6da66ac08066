"""The service of tokenomics as others see it: commands by name, answers nobody changes, streams that end."""

import inspect
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.kernel import Aggregate, Receipt
from domain.kernel.aggregate import event_classes
from domain.kernel.mapper import decode_event
from domain.kernel.time import utc
from domain.tokenomics.budget import Budget
from domain.tokenomics.issuance import Issuance
from domain.tokenomics.payments import PaymentCapability, WalletBalance
from domain.tokenomics.pricing import Activity, Policy, Reward
from domain.tokenomics.reward_claim import RewardClaim
from domain.tokenomics.reward_epoch import RewardEpoch
from domain.tokenomics.rewards import PendingReward
from domain.tokenomics.service import TokenomicsService
from domain.tokenomics.transfer import Leg, Transfer
from domain.tokenomics.wallet import Hold, Wallet, WalletSnapshot
from tests.economy import Books

SERVICE = {name: method for name, method in inspect.getmembers(TokenomicsService, inspect.isfunction) if name[0] != "_"}
ID, NOW = UUID(int=1), utc(2026, 1, 1)


def by_name_only(method: Callable[..., Any]) -> bool:
    taken = [parameter for name, parameter in inspect.signature(method).parameters.items() if name != "self"]
    return all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in taken)


def test_the_service_takes_its_arguments_by_name_only() -> None:
    assert len(SERVICE) >= 14
    assert [name for name, method in SERVICE.items() if not by_name_only(method)] == ["epoch_ends_at"]
    assert by_name_only(Policy.of)


@pytest.mark.parametrize(("method", "by_place"), [(RewardClaim.accrue, 2), (Transfer.post, 3)])
def test_what_could_be_mistaken_for_each_other_is_given_by_name(method: Callable[..., Any], by_place: int) -> None:
    kinds = [parameter.kind for parameter in inspect.signature(method).parameters.values()]
    assert kinds[by_place:] == [inspect.Parameter.KEYWORD_ONLY] * (len(kinds) - by_place)


def test_whatever_answers_a_receipt_is_a_command_decided_again_on_a_conflict_and_idempotent_by_its_key() -> None:
    recording = {
        name: method for name, method in SERVICE.items() if inspect.signature(method).return_annotation is Receipt
    }
    assert set(recording) == {
        "open_wallet", "hold_funds", "capture_hold", "void_hold", "expire_hold", "process_payment", "reject_payment",
        "genesis", "open_epoch", "accrue_reward", "distribute_rewards",
        "void_rewards",
    }  # fmt: skip
    assert all(inspect.unwrap(method) is not method for method in recording.values())


@pytest.mark.parametrize(
    "answer",
    [
        WalletBalance(ID, ID, 1, 0, 1),
        PaymentCapability(True, 1, 0, 1, 0, 0),
        PendingReward(ID, ID, "fl_participation", ID, 1, NOW),
        Activity("fl_participation", ID, ID, ID, 1, 1),
        Reward(1, 0, 10_000),
        Policy(),
        Budget(RewardEpoch(epoch_id=ID, number=1, budget=1, starts_at=NOW, ends_at=NOW), []),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_what_the_service_answers_and_is_asked_cannot_be_changed(answer: Any) -> None:
    for name in type(answer).__dataclass_fields__:
        with pytest.raises(FrozenInstanceError):
            setattr(answer, name, 2)
    assert not hasattr(answer, "__dict__")


@pytest.mark.parametrize(
    "value",
    [Leg(ID, 1), Hold(1, NOW, "job"), WalletSnapshot(ID, ID, 0, 0, 0, {}, {})],
    ids=lambda value: type(value).__name__,
)
def test_values_of_events_and_snapshots_cannot_be_changed(value: Any) -> None:
    for name in value.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(value, name, 2)


def test_a_stream_is_over_with_its_transfer_its_settled_claim_or_its_closed_epoch() -> None:
    aggregates: list[type[Aggregate]] = [Wallet, Transfer, RewardClaim, RewardEpoch, Issuance]
    closing = {kind.__qualname__ for aggregate in aggregates for kind in event_classes(aggregate) if kind.closes}  # type: ignore[attr-defined]
    assert closing == {
        "Transfer.Posted",
        "Transfer.Rejected",
        "RewardClaim.Posted",
        "RewardClaim.Voided",
        "RewardEpoch.Closed",
    }


def test_the_memo_of_a_transfer_of_version_1_is_read_as_its_note() -> None:
    stored = b'{"transfer_id":"%b","kind":"payment","legs":[],"memo":"rent","cause_event_id":null}' % str(ID).encode()
    posted = decode_event("tokenomics.Transfer.Posted", ID, 1, stored)
    assert (posted.memo, posted.note) == (None, "rent")


def test_pending_rewards_are_those_of_the_query_port_at_most_a_hundred(economy: Books) -> None:
    asked: list[tuple[UUID, int]] = []

    def port(device_id: UUID, limit: int) -> list[PendingReward]:
        asked.append((device_id, limit))
        return [PendingReward(ID, device_id, "service_hosting", ID, 5, NOW)]

    device_id = uuid4()
    (pending,) = TokenomicsService(economy.log, pending=port).get_pending_rewards(device_id=device_id)
    assert asked == [(device_id, 100)]
    assert (pending.device_id, pending.reward_type, pending.grains) == (device_id, "service_hosting", 5)
    with pytest.raises(AssertionError):
        TokenomicsService(economy.log).get_pending_rewards(device_id=device_id)
