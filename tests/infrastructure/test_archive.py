"""The archive: whatever reads the log reads it on, nothing can be used twice, and no state leaves before it is safe."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent

from domain.kernel import AlreadyExists, Conflict, Opener
from domain.kernel.catalogue import closing_topics
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.reward_claim import RewardClaim
from domain.tokenomics.transfer import Transfer, TransferIdReused, transfer_id_of
from infrastructure import archive, archiver
from infrastructure.archive import ArchiveAltered, ArchiveMissing, archive_store, encoded, read_archive_at
from infrastructure.archiver import Archived, ArchiverBusy, NotAsSealed, archive_closed
from infrastructure.audit import audit
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader
from infrastructure.event_store.reader import Record
from infrastructure.sealing_keys import load_sealing_keys
from projections.as_of import aggregate_at, rows_at
from projections.replay import compare
from projections.tokenomics import READ_MODELS
from tests.cli.villages import ROOT, eventually
from tests.economy import NOON, Economy
from tests.infrastructure.object_store import object_store
from tests.running import assert_sound, records
from workers.log_sealer import LogSealer

FAR = datetime(2100, 1, 1, tzinfo=UTC)


class Old(Economy):
    """A village of some payments and rewards, all sealed, with an archive in `home`."""

    def __init__(self, url: str, database: Database, home: Path) -> None:
        super().__init__(url, database)
        self.home = home
        self.store = archive_store(None, home)
        self.sealing = load_sealing_keys(home, "village.test/log")
        with self.acting():
            self.service.genesis()
        self.ann, self.bob = self.given(1_000), self.given(500)
        for number in range(10):
            self.pay(self.ann, self.bob, 10 + number, f"payment {number}")
        self.distribute([self.accrue()])
        self.open_claim = self.accrue()
        self.seal()
        self.project()

    def seal(self) -> None:
        sealer = LogSealer(self.database, lambda: self.sealing)
        sealer.run_once()
        sealer.close()

    def project(self) -> None:
        self.projector.run_once()
        self.projector.close()

    def archive(self, before: datetime = FAR, **more: Any) -> Archived:
        return archive_closed(self.database, self.store, closing_topics(), before, **more)

    def archived(self) -> list[int]:
        """The positions of the facts whose states have left the log."""
        with psycopg.connect(self.url) as admin:
            return [at for (at,) in admin.execute("SELECT position FROM log.events WHERE state IS NULL ORDER BY 1")]

    def files(self) -> list[Path]:
        return sorted(self.home.glob("archive/??/*"))

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.url) as admin:
            found = admin.execute(statement.encode(), parameters)
            return found.fetchall() if found.description else []


@pytest.fixture
def old(database_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Old]:
    monkeypatch.setattr(archive, "_archive", None)
    old = Old(database_url, database, tmp_path)
    read_archive_at(lambda: archive_store(None, tmp_path))
    yield old
    old.close()


def _payment(old: Old, number: int) -> UUID:
    return transfer_id_of("payment", wallet_id_of(old.ann), f"payment {number}")


def _read(old: Old) -> list[Record]:
    return records(old.url)


def test_closed_streams_are_archived_whole_and_the_others_not_at_all(old: Old) -> None:
    before = _read(old)
    closing = set(closing_topics())
    newest = {record.stream: record for record in before}
    closed = {stream for stream, record in newest.items() if record.topic in closing}
    expected = [record.position for record in before if record.stream in closed]
    done = old.archive()
    assert old.archived() == expected
    assert (done.facts, done.streams) == (len(expected), len(closed))
    assert {record.topic for record in before if record.position in expected} == {
        "tokenomics.Transfer.Posted", "tokenomics.RewardClaim.Accrued", "tokenomics.RewardClaim.Posted",
    }  # fmt: skip
    assert old.archive().facts == 0, "each once"


@pytest.mark.parametrize("facts_a_file", [1, 3, 16_384])
def test_whatever_reads_the_log_reads_the_same_after_as_before(
    old: Old, monkeypatch: pytest.MonkeyPatch, facts_a_file: int
) -> None:
    monkeypatch.setattr(archiver, "MAX_FILE_FACTS", facts_a_file)
    monkeypatch.setattr(archive, "MAX_CACHED_BYTES", 500)
    head = old.log.head()
    with old.database.connect(Role.READER) as connection:
        past = {at: [rows_at(connection, model, at) for model in READ_MODELS] for at in (head // 3, head // 2, head)}
    before, library = _read(old), old.log.recorder.select_notifications(1, 1_000)
    transfers = [record for record in before if record.topic == Transfer.Posted.TOPIC]  # type: ignore[attr-defined]

    done = old.archive()
    assert len(done.files) == -(-done.facts // facts_a_file)
    assert _read(old) == before
    assert_sound(before)
    assert old.log.recorder.select_notifications(1, 1_000) == library
    with old.database.connect(Role.READER) as connection:
        assert compare(connection, READ_MODELS).differences == []
        for at, rows in past.items():
            assert [rows_at(connection, model, at) for model in READ_MODELS] == rows
        verdict = audit(connection, old.sealing.verifiers)
        assert (verdict.honest, verdict.facts, verdict.sealed) == (True, head, head)
        reader = LogReader(connection)
        for record in transfers:
            assert reader.of_streams([record.stream]) == [record]
            assert record in reader.correlated(record.correlation_id, 1_000)
            assert aggregate_at(connection, Transfer, record.stream, head) == old.log.at_version(
                Transfer, record.stream, 1
            )


def test_a_read_model_is_rebuilt_from_archived_facts(old: Old) -> None:
    before = _rows(old)
    old.archive()
    old.sql("UPDATE engine.cursors SET version = 0 WHERE name = 'transfers'")  # as if its code were newer
    old.project()
    assert old.sql("SELECT version FROM engine.cursors WHERE name = 'transfers'") != [(0,)]
    assert _rows(old) == before


def _rows(old: Old) -> dict[str, list[Any]]:
    return {model.name: sorted(old.sql(f"SELECT * FROM {model.table}"), key=str) for model in READ_MODELS}


def test_ids_stay_used(old: Old) -> None:
    old.archive()
    stream = _payment(old, 3)
    old.log.cache.drop(stream)
    head = old.log.head()
    assert old.pay(old.ann, old.bob, 13, "payment 3").position <= head, "the same payment again changes nothing"
    with pytest.raises(TransferIdReused):
        old.pay(old.ann, old.bob, 14, "payment 3")
    legs = old.log.load(Transfer, stream).legs
    with old.acting(), pytest.raises(AlreadyExists):
        old.log.record(Transfer.post(stream, "payment", legs))
    assert old.log.head() == head


def test_an_archived_stream_conflicts_at_an_old_version_and_an_opener_on_it_adds_nothing(old: Old) -> None:
    posted = next(record for record in _read(old) if record.topic == "tokenomics.RewardClaim.Posted")
    old.archive()
    head = old.log.head()
    for version, refusal in ((1, AlreadyExists), (2, Conflict)):
        with pytest.raises(refusal):
            old.log.recorder.insert_events([StoredEvent(posted.stream, version, posted.topic, posted.state)])
    claim = old.log.load(RewardClaim, posted.stream)
    opener = Opener(RewardClaim.fact(RewardClaim.Posted, posted.stream, **_fields(posted)))
    assert (claim.version, old.log.head()) == (2, head)
    with old.acting():
        old.log.record(opener)
    assert old.log.head() == head


def _fields(record: Record) -> dict[str, Any]:
    event = record.fact().event
    return {name: getattr(event, name) for name in ("claim_id", "device_id", "grains", "transfer_id", "epoch_id")}


def test_what_is_recent_or_not_sealed_stays_and_so_does_the_newest_fact(old: Old) -> None:
    assert old.archive(before=NOON).facts == 0
    sealed = old.log.head()
    old.pay(old.ann, old.bob, 1, "later")
    old.archive()
    assert max(old.archived()) <= sealed
    # A transfer's own fact is the newest one here.
    stream, with_newest = uuid4(), uuid4()
    with old.acting():
        for transfer_id in (stream, with_newest):
            old.log.record(Transfer.fact(Transfer.Rejected, transfer_id, transfer_id=transfer_id, kind="x", reason="y"))
    old.seal()
    old.archive()
    assert _is_archived(old, stream)
    assert not _is_archived(old, with_newest)


def _is_archived(old: Old, stream: UUID) -> bool:
    return old.sql("SELECT state IS NULL FROM log.events WHERE stream = %s", stream) == [(True,)]


def test_a_dry_run_tells_the_same_and_moves_nothing(old: Old) -> None:
    told = old.archive(dry_run=True)
    assert (old.archived(), old.files()) == ([], [])
    done = old.archive()
    assert (told.streams, told.facts, told.state_bytes) == (done.streams, done.facts, done.state_bytes)


def _missing(file: Path) -> None:
    file.unlink()


def _altered(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(("damage", "error"), [(_missing, ArchiveMissing), (_altered, ArchiveAltered)])
def test_a_missing_or_altered_file_is_named_and_the_audit_names_the_first_fact_it_cannot_prove(
    old: Old, monkeypatch: pytest.MonkeyPatch, damage: Any, error: type[Exception]
) -> None:
    monkeypatch.setattr(archiver, "MAX_FILE_FACTS", 2)
    files = old.archive().files
    lost = files[2]
    (first, *_) = [at for (at,) in old.sql(_OF_FILE, lost)]
    damage(old.home / "archive" / lost[:2] / lost)
    with pytest.raises(error, match=lost):
        _read(old)
    with old.database.connect(Role.READER) as connection:
        verdict = audit(connection, old.sealing.verifiers)
    assert (verdict.honest, verdict.first_lie) == (False, first)
    assert lost in verdict.reason
    old.sql("UPDATE log.events SET actor = 'nobody' WHERE position = %s", first - 1)
    with old.database.connect(Role.READER) as connection:
        assert audit(connection, old.sealing.verifiers).first_lie == first - 1


_OF_FILE = (
    "SELECT position FROM log.events JOIN log.archives AS a ON a.id = archive"
    " WHERE a.sha256 = decode(%s, 'hex') ORDER BY position"
)


def test_a_state_that_vanished_without_an_archive_is_named(old: Old) -> None:
    old.sql("UPDATE log.events SET state = NULL WHERE position = 4")
    with pytest.raises(ArchiveMissing, match="fact 4"):
        _read(old)


def test_a_fact_that_is_not_as_sealed_is_not_archived(old: Old) -> None:
    (position,) = [r.position for r in _read(old) if r.stream == _payment(old, 5)]
    old.sql("UPDATE log.events SET actor = 'nobody' WHERE position = %s", position)
    with pytest.raises(NotAsSealed, match=f"fact {position} "):
        old.archive()
    assert old.archived() == []


class Died(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("step", ["encoded", "Archive", "record_hash"])
def test_an_archiver_that_dies_before_the_rows_are_emptied_has_changed_nothing_and_the_next_one_goes_on(
    old: Old, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*_: Any) -> None:
        raise Died

    before = _read(old)
    with monkeypatch.context() as patched:
        patched.setattr(archiver, step, die)
        with pytest.raises(Died):
            old.archive()
    assert old.archived() == []
    left = old.files()
    done = old.archive()
    assert [file.name for file in left] == ([] if step == "encoded" else done.files), "the stored file is used again"
    assert _read(old) == before


def test_a_file_that_gives_back_something_else_empties_no_row(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(rows: Any) -> bytes:
        (position, topic, state), *others = rows
        return encoded([(position, topic, state + b" "), *others])

    before = _read(old)
    with monkeypatch.context() as patched:
        patched.setattr(archiver, "encoded", wrong)
        with pytest.raises(NotAsSealed, match="fact "):
            old.archive()
    assert (old.archived(), _read(old)) == ([], before)


def test_an_archive_in_an_object_store_is_beside_the_blobs(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        before = _read(old)
        old.store = archive_store("s3://bucket/village", old.home)
        done = old.archive()
        assert list(server.objects) == [f"/bucket/village/archive/{sha[:2]}/{sha}" for sha in done.files]
        read_archive_at(lambda: archive_store("s3://bucket/village/", old.home))
        assert _read(old) == before


def test_one_archiver_works_at_a_time(old: Old) -> None:
    with psycopg.connect(old.url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (archiver.ARCHIVER_LOCK,))
        with pytest.raises(ArchiverBusy):
            old.archive()


def test_killed_at_any_point_nothing_is_lost_and_the_next_run_goes_on(old: Old) -> None:
    before = _read(old)
    expected = old.archive(dry_run=True)
    for killed in range(3):
        moved = len(old.archived())
        command = [sys.executable, "-m", "tests.infrastructure.archiver_process", old.url, str(old.home)]
        with subprocess.Popen(command, cwd=ROOT) as process:
            assert eventually(lambda so_far=moved: len(old.archived()) > so_far or process.poll() is not None, 60)  # type: ignore[misc]
            process.kill()
        assert _read(old) == before, killed
        if len(old.archived()) == expected.facts:
            break
    assert eventually(lambda: old.sql("SELECT count(*) FROM pg_locks WHERE objid = %s", _LOCK_ID) == [(0,)])
    old.archive()
    assert len(old.archived()) == expected.facts
    assert _read(old) == before
    assert old.sql("SELECT sum(facts)::int FROM log.archives") == [(expected.facts,)]


_LOCK_ID = archiver.ARCHIVER_LOCK & 0xFFFFFFFF


def test_the_archiver_can_only_archive_and_only_what_is_sealed_once_and_as_it_was(old: Old) -> None:
    (place, digest) = old.sql("SELECT index + 1, hash FROM log.hashes WHERE level = 0 ORDER BY index LIMIT 1")[0]
    head = old.log.head()
    (last,) = old.sql("SELECT hash FROM log.hashes WHERE level = 0 AND index = %s", head - 1)[0]
    move = "SELECT log.archive(decode(repeat('ab', 32), 'hex'), 1, %s::bigint[], %s::bytea[])"
    with old.database.connect(Role.ARCHIVER) as connection:
        for statement in ("UPDATE log.events SET state = NULL", "DELETE FROM log.events", "DELETE FROM log.archives"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
        for positions, hashes in (
            ([place], [b"\x00" * 32]),
            ([head], [last]),
            ([head + 1], [digest]),
            ([place] * 2, [digest] * 2),
        ):
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(move, (positions, hashes))
    for role in (Role.WRITER, Role.READER, Role.PROJECTOR):
        with old.database.connect(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(move, ([place], [digest]))
    assert old.archived() == []
