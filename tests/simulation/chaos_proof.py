"""What has to hold once the chaos is over, from the log, the database and the broker alone."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from nats.js.api import AckPolicy, ConsumerConfig

from domain.federated_learning.round import TrainingRound
from domain.kernel import Fact
from domain.tokenomics.reward_claim import RewardClaim
from domain.tokenomics.transfer import Transfer
from domain.tokenomics.wallet import Wallet
from infrastructure.audit import audit
from infrastructure.bus import Bus
from infrastructure.database import Role, conninfo_for
from infrastructure.inbox import Puller
from infrastructure.sealing_keys import load_sealing_keys
from infrastructure.settings import Settings
from projections.catalogue import READ_MODELS
from projections.replay import compare
from tests.cli.villages import eventually
from tests.running import assert_sound, records
from tests.simulation.chaos_load import Acknowledged, Follower

EFFECTS: Mapping[str, type[Any]] = {
    "process_payment": Transfer.Posted,
    "hold_funds": Wallet.FundsHeld,
    "capture_hold": Wallet.HoldCaptured,
    "void_hold": Wallet.HoldVoided,
}
"""The event of every command of the members of which each one records exactly one."""

CALM_S = 90.0


def prove(
    home: Path,
    database_url: str,
    *,
    acknowledged: Sequence[Acknowledged],
    supply: Mapping[str, Any],
    rounds: Mapping[UUID, int],
    follower: Follower,
) -> dict[str, Any]:
    """Every proof, and the figures of the run. Raises AssertionError."""
    settings = Settings(home=home)
    with psycopg.connect(conninfo_for(database_url, Role.READER), autocommit=True) as connection:
        _sealed_to_the_end(connection, settings)
        found = records(database_url)
        assert_sound(found)
        facts = [record.fact() for record in found]
        _acknowledged_once(facts, acknowledged)
        _trained_and_paid_once(facts, rounds)
        assert (supply["conserved"], supply["driftGrains"]) == (True, "0")
        comparison = compare(connection, READ_MODELS)
        assert comparison.differences == []
        assert connection.execute("SELECT count(*) FROM engine.dead_letters").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM engine.bus_dead_letters").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM read.sagas WHERE state = 'parked'").fetchone() == (0,)
    assert eventually(lambda: len(follower.seen) >= len(facts), CALM_S), f"the feed told {len(follower.seen)}"
    follower.stop()
    assert follower.seen == list(range(1, len(follower.seen) + 1)), _first_slip(follower.seen)
    _told_once_by_the_bus(home, settings, facts)
    return {
        "facts": len(facts),
        "acknowledged_commands": len(acknowledged),
        "rows_equal_to_their_rebuild": comparison.rows,
        "rounds": sum(rounds.values()),
    }


def _first_slip(seen: Sequence[int]) -> str:
    """Where the feed left the order, and what it told around it."""
    at = next(index for index, position in enumerate(seen) if position != index + 1)
    return f"after {seen[max(0, at - 3) : at]} came {seen[at : at + 3]}"


def _sealed_to_the_end(connection: psycopg.Connection[Any], settings: Settings) -> None:
    """The sealer comes to the end of the log, and what it has signed is what the log says."""
    trusted = list(load_sealing_keys(settings.home, settings.log_origin).verifiers)
    ends = time.monotonic() + CALM_S
    while True:
        verdict = audit(connection, trusted)
        assert verdict.honest, verdict
        if verdict.sealed == verdict.facts:
            return
        assert time.monotonic() < ends, verdict
        time.sleep(0.5)


def _acknowledged_once(facts: Sequence[Fact], acknowledged: Sequence[Acknowledged]) -> None:
    commands: dict[UUID, list[Fact]] = defaultdict(list)
    for fact in facts:
        commands[fact.command_id].append(fact)
    at = {own[-1].position: own for own in commands.values()}
    answered = Counter(one.position for one in acknowledged)
    assert answered.most_common(1)[0][1] == 1, "two commands were answered with one position"
    for one in acknowledged:
        own = at[one.position]
        assert sum(isinstance(fact.event, EFFECTS[one.command]) for fact in own) == 1, one
        assert one.id in {fact.stream for fact in own} | {getattr(fact.event, "hold_id", None) for fact in own}, one
    recorded = Counter(
        type(fact.event) for fact in facts if getattr(fact.event, "kind", "") not in {"genesis", "reward"}
    )
    asked = Counter(EFFECTS[one.command] for one in acknowledged)
    asked[Transfer.Posted] += asked[Wallet.HoldCaptured]
    for kind, count in asked.items():
        assert recorded[kind] == count, f"{kind.__qualname__}: {recorded[kind]} recorded, {count} acknowledged"


def _trained_and_paid_once(facts: Sequence[Fact], rounds: Mapping[UUID, int]) -> None:
    def events(kind: type[Any]) -> list[Any]:
        return [fact.event for fact in facts if isinstance(fact.event, kind)]

    for session, count in rounds.items():
        completed = [event.number for event in events(TrainingRound.Completed) if event.session_id == session]
        assert sorted(completed) == list(range(1, count + 1))
    assert len(events(TrainingRound.Aggregated)) == sum(rounds.values())
    survivors = Counter(
        (event.originator_id, device) for event in events(TrainingRound.Sealed) for device in event.survivors
    )
    accrued = events(RewardClaim.Accrued)
    trained = [event for event in accrued if event.activity_type == "fl_participation"]
    assert Counter((event.activity_id, event.device_id) for event in trained) == survivors
    assert Counter(event.originator_id for event in events(RewardClaim.Posted)) == Counter(
        event.originator_id for event in accrued
    )
    rewards = [event for event in events(Transfer.Posted) if event.kind == "reward"]
    paid = [leg.grains for event in rewards for leg in event.legs if leg.grains > 0]
    assert sum(paid) == sum(event.grains for event in accrued)


def _told_once_by_the_bus(home: Path, settings: Settings, facts: Sequence[Fact]) -> None:
    expected = [(fact.position, fact.event_id) for fact in facts]
    told: list[tuple[int, UUID]] = []
    with Bus((home / "nats.url").read_text().strip(), settings.event_stream_name, name="chaos-proof") as bus:
        config = ConsumerConfig(durable_name="chaos_proof", ack_policy=AckPolicy.NONE)
        puller, ends = Puller(bus, settings.event_stream_name, config), time.monotonic() + CALM_S
        while len(told) < len(expected) and time.monotonic() < ends:
            for message in puller.pull(500, 2.0):
                headers = message.headers or {}
                told.append((int(headers["ce-position"]), UUID(headers["ce-id"])))
    assert told[: len(expected)] == expected
