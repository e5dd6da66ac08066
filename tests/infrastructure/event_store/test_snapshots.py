"""A long stream is loaded from its newest snapshot, and what is loaded is what the events alone give."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.device_registry.reputation import SERVICES, Reputation
from domain.kernel import EventLog, SnapshotPolicy
from domain.kernel.aggregate import Aggregate
from domain.kernel.errors import UnreadableEvent
from domain.kernel.snapshot import StoredSnapshot, restored, take
from domain.tokenomics.wallet import Wallet
from tests.ledger import Account, AccountSnapshot, Ledger, Overdrawn, Tag
from tests.running import asked, deposit, opened, withdraw

AT = datetime(2026, 1, 1, tzinfo=UTC)
amounts = st.lists(st.integers(1, 10**12), max_size=8)


@pytest.fixture
def admin(database_url: str) -> Any:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def kept(admin: Any) -> dict[UUID, int]:
    return dict(admin.execute("SELECT stream, version FROM engine.snapshots").fetchall())


def long_stream(ledger: Ledger, deposits: int = 7) -> UUID:
    stream = opened(ledger)
    for _ in range(deposits):
        deposit(ledger, stream, 1)
    ledger.log.find(Account, stream)
    return stream


def folded(log: EventLog, stream: UUID) -> Account:
    """From all its events, never a snapshot."""
    return log.at_version(Account, stream, 2**40)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-3, 9), max_size=25))
def test_what_a_snapshot_gives_is_what_the_events_give(ledger: Ledger, changes: list[int]) -> None:
    stream = opened(ledger)
    for change in changes:
        with suppress(Overdrawn):
            (deposit if change >= 0 else withdraw)(ledger, stream, abs(change))
        assert ledger.log.find(Account, stream) == folded(ledger.log, stream)


def test_a_short_stream_has_no_snapshot(ledger: Ledger, admin: Any) -> None:
    stream = opened(ledger, balance=1)
    ledger.log.find(Account, stream)
    assert kept(admin) == {}


def test_a_long_stream_is_loaded_from_its_snapshot_and_the_events_since(
    ledger: Ledger, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = long_stream(ledger)
    assert kept(admin) == {stream: 8}
    deposit(ledger, stream, 5)
    asked_after: list[int | None] = []
    plain = ledger.log.recorder.select_events

    def watched(originator_id: UUID, **bounds: Any) -> Any:
        asked_after.append(bounds.get("gt"))
        return plain(originator_id, **bounds)

    monkeypatch.setattr(ledger.log.recorder, "select_events", watched)
    found = ledger.log.load(Account, stream)
    assert (found.balance, found.version, asked_after) == (12, 9, [8])


def test_only_the_newest_snapshot_is_kept(ledger: Ledger, admin: Any) -> None:
    stream = long_stream(ledger)
    for _ in range(5):
        deposit(ledger, stream, 1)
    ledger.log.find(Account, stream)
    assert kept(admin) == {stream: 13}


def test_an_older_snapshot_does_not_replace_a_newer_one(ledger: Ledger, log: EventLog, admin: Any) -> None:
    stream = long_stream(ledger)
    log.recorder.keep_snapshot(take(log.at_version(Account, stream, 3)))  # type: ignore[attr-defined]
    assert kept(admin) == {stream: 8}


@pytest.mark.parametrize(
    "damage",
    [
        "state = 'nonsense'",
        "state = convert_to(replace(convert_from(state, 'UTF8'), '7', '\"7\"'), 'UTF8')",
        "state = '{}'",
        "topic = 'testing.Another'",
        "policy_version = 0",
    ],
)
def test_a_snapshot_that_does_not_fit_is_left_aside_and_taken_anew(ledger: Ledger, admin: Any, damage: str) -> None:
    stream = long_stream(ledger)
    admin.execute(f"UPDATE engine.snapshots SET {damage}")
    assert ledger.log.load(Account, stream).balance == 7
    row = admin.execute("SELECT topic, policy_version, state FROM engine.snapshots").fetchone()
    assert row == (Account.topic, 1, b'{"owner":"somebody","balance":7,"tags":[]}')


def test_a_snapshot_of_an_older_policy_is_left_aside(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = long_stream(ledger)
    monkeypatch.setattr(Account, "snapshots", SnapshotPolicy(AccountSnapshot, every=5, version=2))
    assert ledger.log.load(Account, stream).balance == 7


def test_without_any_snapshot_everything_still_loads(ledger: Ledger, admin: Any) -> None:
    stream = long_stream(ledger)
    admin.execute("TRUNCATE engine.snapshots")
    assert ledger.log.load(Account, stream).balance == 7


def test_a_snapshot_that_cannot_be_kept_hinders_no_load(ledger: Ledger, admin: Any) -> None:
    stream = long_stream(ledger, deposits=4)
    admin.execute("TRUNCATE engine.snapshots")
    admin.execute("REVOKE INSERT, UPDATE ON engine.snapshots FROM village_writer")
    try:
        assert ledger.log.load(Account, stream).balance == 4
        assert kept(admin) == {}
    finally:
        admin.execute("GRANT INSERT, UPDATE ON engine.snapshots TO village_writer")


def test_a_command_on_a_snapshotted_stream_is_decided_and_recorded_as_ever(ledger: Ledger, elsewhere: Ledger) -> None:
    stream = long_stream(ledger)
    withdraw(elsewhere, stream, 7)
    with asked(), pytest.raises(Overdrawn):
        elsewhere.withdraw(account_id=stream, grains=1)
    assert folded(ledger.log, stream).balance == 0


def test_a_struct_that_lacks_an_attribute_is_our_mistake() -> None:
    account = Account(account_id=uuid4(), owner="x")
    account.forgotten = 1  # type: ignore[attr-defined]
    with pytest.raises(UnreadableEvent, match="not made of its attributes"):
        take(account)


def _again(aggregate: Aggregate) -> Aggregate | None:
    stored = take(aggregate)
    assert isinstance(stored, StoredSnapshot)
    return restored(type(aggregate), stored)


@given(amounts, st.booleans())
def test_a_wallet_comes_back_from_its_snapshot(credits: list[int], ends: bool) -> None:
    wallet = Wallet(wallet_id=uuid4(), owner_id=uuid4())
    for grains in credits:
        wallet._credited(transfer_id=uuid4(), grains=grains)
        hold_id = uuid4()
        wallet._held(hold_id=hold_id, grains=grains, expires_at=AT, purpose="p")
        if ends:
            wallet._voided(hold_id=hold_id, grains=grains)
    assert _again(wallet) == wallet


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 10_000)), max_size=8))
def test_a_reputation_comes_back_from_its_snapshot(evidence: list[tuple[bool, int]]) -> None:
    reputation = Reputation(device_id=uuid4(), service=min(SERVICES))
    for good, weight_bp in evidence:
        reputation.weigh(good=good, weight_bp=weight_bp, cause_event_id=uuid4())
    assert _again(reputation) == reputation


@given(
    st.lists(st.builds(Tag, st.text(max_size=5).filter(lambda text: "\0" not in text), st.integers(0, 9)), max_size=3)
)
def test_an_account_comes_back_from_its_snapshot(tags: list[Tag]) -> None:
    account = Account(account_id=uuid4(), owner="x")
    account.tag(tags, {}, None, AT)
    assert _again(account) == account
