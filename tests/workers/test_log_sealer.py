"""Sealing a real log, proving facts of it, and finding the first lie after tampering with SQL."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from domain.audit.checkpoint import verify
from domain.audit.merkle import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion
from domain.kernel import EventLog, new_scope, within
from infrastructure.audit import NotSealed, SealedLog, Verdict, audit, record_hash
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader, open_event_log
from infrastructure.sealing_keys import SealingKeys, load_sealing_keys, rotate_sealing_key
from projections.explain import SealBroken, explain, prove, prove_growth
from tests.ledger import Ledger
from workers.log_sealer import LogSealer

ORIGIN = "village.test/log"


class Sealed:
    """A log of forty facts sealed in three checkpoints."""

    def __init__(self, url: str, database: Database, home: Path) -> None:
        self.url = url
        self.database = database
        self.home = home
        self.log: EventLog = open_event_log(url)
        self.keys: SealingKeys = load_sealing_keys(home, ORIGIN)
        for facts in (1, 20, 19):
            self.grow(facts)
            self.seal()

    def grow(self, facts: int) -> None:
        with within(new_scope("test")):
            for number in range(facts):
                Ledger(self.log).open(account_id=uuid4(), owner=f"owner {number}")

    def seal(self) -> int:
        sealer = LogSealer(self.database, lambda: self.keys)
        try:
            return sealer.run_once()
        finally:
            sealer.close()

    def audit(self, kept: str | None = None) -> Verdict:
        with self.database.connect(Role.READER) as connection:
            return audit(connection, self.keys.verifiers, kept=kept)

    def checkpoint(self) -> str:
        with self.database.connect(Role.READER) as connection:
            _, note = SealedLog(connection).newest_checkpoint() or (0, "")
        return note

    def tamper(self, *statements: str) -> None:
        with psycopg.connect(self.url) as admin:
            for statement in statements:
                admin.execute(statement.encode())


@pytest.fixture
def sealed(database_url: str, database: Database, tmp_path: Path) -> Iterator[Sealed]:
    sealed = Sealed(database_url, database, tmp_path)
    yield sealed
    sealed.log.close()


def test_an_honest_log_is_found_honest(sealed: Sealed) -> None:
    assert sealed.audit() == Verdict(facts=40, sealed=40, checkpoints=3)


def test_facts_that_are_not_sealed_yet_are_no_lie(sealed: Sealed) -> None:
    sealed.grow(3)
    assert sealed.audit() == Verdict(facts=43, sealed=40, checkpoints=3)


def test_sealing_again_without_new_facts_adds_no_checkpoint(sealed: Sealed) -> None:
    assert sealed.seal() == 40
    assert sealed.audit().checkpoints == 3


LIES: dict[str, tuple[int, list[str]]] = {
    "a state was altered": (7, ["UPDATE log.events SET state = replace(convert_from(state, 'UTF8'), 'owner 5',"
                                " 'owner 9')::bytea WHERE position = 7"]),
    "an actor was altered": (13, ["UPDATE log.events SET actor = 'nobody' WHERE position = 13"]),
    "a time was altered": (2, ["UPDATE log.events SET recorded_at = recorded_at + interval '1 us' WHERE position = 2"]),
    "a fact was removed": (9, ["DELETE FROM log.events WHERE position = 9"]),
    "the last facts were removed": (38, ["DELETE FROM log.events WHERE position >= 38"]),
    "two facts were reordered": (4, ["UPDATE log.events SET position = -4 WHERE position = 4",
                                     "UPDATE log.events SET position = 4 WHERE position = 6",
                                     "UPDATE log.events SET position = 6 WHERE position = -4"]),
    "a fact was inserted": (30, ["UPDATE log.events SET position = -position - 1 WHERE position >= 30",
                                 "UPDATE log.events SET position = -position WHERE position < 0",
                                 "INSERT INTO log.events SELECT 30, gen_random_uuid(), 1, topic, state, event_id,"
                                 " command_id, correlation_id, causation_id, actor, recorded_at FROM log.events"
                                 " WHERE position = 29"]),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_the_first_lie_is_found_at_its_position(sealed: Sealed, lie: str) -> None:
    position, statements = LIES[lie]
    sealed.tamper(*statements)
    verdict = sealed.audit()
    assert (verdict.honest, verdict.first_lie) == (False, position)


def test_a_liar_who_also_rewrites_the_tree_is_caught_by_the_signed_root(sealed: Sealed) -> None:
    sealed.tamper("UPDATE log.events SET actor = 'nobody' WHERE position = 25", "TRUNCATE log.hashes")
    sealed.seal()

    verdict = sealed.audit()

    assert verdict.first_lie == 22
    assert verdict.reason == "facts 22..40 do not hash to what checkpoint 40 signed"


def test_only_a_checkpoint_that_was_kept_elsewhere_tells_of_a_log_that_was_cut_off_with_its_seals(
    sealed: Sealed,
) -> None:
    kept = sealed.checkpoint()
    assert sealed.audit(kept).honest
    sealed.tamper(
        "DELETE FROM log.events WHERE position > 21",
        "DELETE FROM log.checkpoints WHERE size > 21",
        "TRUNCATE log.hashes",
    )
    sealed.seal()
    assert sealed.audit() == Verdict(facts=21, sealed=21, checkpoints=2)
    assert sealed.audit(kept).first_lie == 22
    sealed.grow(19)
    sealed.seal()
    assert sealed.audit().honest
    verdict = sealed.audit(kept)
    assert (verdict.first_lie, verdict.reason) == (22, "facts 22..40 do not hash to what checkpoint 40 signed")


def test_no_proof_is_given_of_a_fact_that_is_not_as_it_was_sealed(sealed: Sealed) -> None:
    sealed.tamper("UPDATE log.events SET actor = 'nobody' WHERE position = 25")
    with sealed.database.connect(Role.READER) as connection:
        ((stream,),) = connection.execute("SELECT stream FROM log.events WHERE position = 25")
        assert prove(connection, 24, sealed.keys.verifiers) is not None
        with pytest.raises(SealBroken):
            prove(connection, 25, sealed.keys.verifiers)
        with pytest.raises(SealBroken):
            explain(connection, stream, sealed.keys.verifiers)
    sealed.tamper("DELETE FROM log.hashes WHERE level = 0 AND index = 3")
    with sealed.database.connect(Role.READER) as connection:
        with pytest.raises(SealBroken):
            prove(connection, 3, sealed.keys.verifiers)
        with pytest.raises(SealBroken):
            prove_growth(connection, 21, 40)


def test_a_checkpoint_signed_by_a_stranger_is_a_lie(sealed: Sealed, tmp_path: Path) -> None:
    stranger = load_sealing_keys(tmp_path / "stranger", ORIGIN)
    sealed.grow(1)
    LogSealer(sealed.database, lambda: stranger).run_once()
    assert "not genuine" in sealed.audit().reason


@pytest.mark.parametrize("size", [21, 1_000])
def test_a_checkpoint_that_nobody_signed_is_the_lie_and_not_the_facts_it_speaks_of(sealed: Sealed, size: int) -> None:
    forged = f"{ORIGIN}\n{size}\n{'A' * 43}=\n\n— {ORIGIN} A\n"
    sealed.tamper(
        f"DELETE FROM log.checkpoints WHERE size = {size}",
        f"INSERT INTO log.checkpoints (size, note, sealed_at) VALUES ({size}, '{forged}', now())",
    )
    verdict = sealed.audit()
    assert f"checkpoint {size} is not genuine" in verdict.reason
    sealed.grow(1)
    sealed.seal()
    with sealed.database.connect(Role.READER) as connection:
        note = SealedLog(connection).checkpoint(41)
    assert note is not None, "a forgery stops the sealer"
    assert verify(note, sealed.keys.verifiers).size == 41


def test_after_a_key_rotation_all_checkpoints_stay_genuine(sealed: Sealed) -> None:
    old = sealed.keys
    sealed.keys = rotate_sealing_key(sealed.home, ORIGIN)
    sealed.grow(1)
    sealed.seal()
    assert sealed.audit() == Verdict(facts=41, sealed=41, checkpoints=4)
    assert len(sealed.keys.verifiers) == 2
    with sealed.database.connect(Role.READER) as connection:
        assert "not genuine" in audit(connection, old.verifiers).reason


def test_a_sealer_that_runs_signs_with_the_key_that_was_rotated_in(sealed: Sealed) -> None:
    sealer = LogSealer(sealed.database, lambda: load_sealing_keys(sealed.home, ORIGIN))
    sealed.grow(1)
    sealer.run_once()
    rotated = rotate_sealing_key(sealed.home, ORIGIN)
    sealed.grow(1)
    sealer.run_once()
    sealer.close()
    with sealed.database.connect(Role.READER) as connection:
        (*_, before), (*_, after) = list(SealedLog(connection).checkpoints())[-2:]
    for note, key in zip((before, after), rotated.verifiers, strict=True):
        assert verify(note, [key]).origin == ORIGIN


def test_a_rotation_makes_a_new_key_even_where_an_old_one_was_taken_away(tmp_path: Path) -> None:
    second = rotate_sealing_key(tmp_path, ORIGIN)
    (tmp_path / "keys" / "log_sealing_0001.pem").unlink()
    third = rotate_sealing_key(tmp_path, ORIGIN)
    assert third.verifiers[0] == second.verifiers[1]
    assert len(third.verifiers) == 2


def test_sealing_keys_are_files_only_their_owner_can_read(sealed: Sealed) -> None:
    modes = {path.stat().st_mode & 0o777 for path in (sealed.home / "keys").glob("log_sealing_*")}
    assert modes == {0o600}


def test_a_fact_can_be_proved_to_be_in_the_log_and_the_log_to_have_only_grown(sealed: Sealed) -> None:
    sealed.grow(700)
    sealed.seal()
    with sealed.database.connect(Role.READER) as connection:
        tree = SealedLog(connection)
        old, new = (verify(note, sealed.keys.verifiers) for size, note in tree.checkpoints() if size in (21, 740))
        (record,) = LogReader(connection).at([300])
        proof = inclusion_proof(299, new.size, tree.node)
        verify_inclusion(299, new.size, record_hash(record), proof, new.root)
        growth = consistency_proof(old.size, new.size, tree.node)
        verify_consistency(old.size, new.size, old.root, new.root, growth)
        with pytest.raises(NotSealed):
            tree.node(0, 740)


def test_two_sealers_at_once_leave_one_tree(sealed: Sealed) -> None:
    sealers = [LogSealer(sealed.database, lambda: sealed.keys) for _ in range(2)]
    dice = random.Random(3)
    for _ in range(10):
        sealed.grow(dice.randint(1, 5))
        dice.choice(sealers).step()
    steps: list[Callable[[], Any]] = [sealer.run_once for sealer in sealers]
    assert steps[0]() == steps[1]() == sealed.log.head()
    assert sealed.audit().honest
