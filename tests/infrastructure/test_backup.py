"""The drill: back a village up, restore it on a new server, and find the same truth and the same read models."""

import io
import json
import tarfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

import domain.topics  # noqa: F401  (every stored topic must resolve)
from domain.kernel import new_scope, within
from domain.kernel.personal import SealedText, place_of
from domain.tokenomics.service import TokenomicsService
from infrastructure import archive as archives
from infrastructure.archive import archive_store, missing_files, read_archive_at
from infrastructure.archiver import archive_closed
from infrastructure.audit import audit
from infrastructure.backup import FORMAT_1, BackupInvalid, TargetNotEmpty, backup, restore
from infrastructure.database import Database, Role, migrate
from infrastructure.embedded.postgres import EmbeddedPostgres
from infrastructure.event_store import LogReader, open_event_log
from infrastructure.sealing_keys import SealingKeys, load_sealing_keys
from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable
from projections.catalogue import READ_MODELS
from projections.replay import compare
from tests.cli.villages import eventually
from tests.running import assert_sound, in_background, records
from workers.log_sealer import LogSealer
from workers.projector import Projector

ORIGIN = "village.test/log"


@pytest.fixture(autouse=True)
def _archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_archive", None)
    read_archive_at(lambda: archive_store(None, tmp_path))


def live(database: Database, keys: SealingKeys) -> None:
    """A little history: the genesis, wallets, one command with an idempotency key, a saga's cursor, a seal."""
    log = open_event_log(database.url)
    tokenomics = TokenomicsService(log)
    with within(new_scope("operator:test")):
        tokenomics.genesis()
    for number in range(20):
        with within(new_scope("operator:test", idempotency_key=f"key {number}", body_hash=b"body")):
            tokenomics.open_wallet(owner_id=uuid4())
    log.close()
    with database.connect(Role.WRITER) as connection:
        connection.execute("INSERT INTO engine.cursors (name, position) VALUES ('saga:reward_training', 7)")
    sealer = LogSealer(database, lambda: keys)
    sealer.run_once()
    sealer.close()
    project(database)


def project(database: Database) -> None:
    projector = Projector(database, READ_MODELS)
    projector.run_once()
    projector.close()


def rows(database: Database) -> dict[str, dict[Any, Any]]:
    with database.connect(Role.READER) as connection:
        return {
            model.name: {model.key_of(row := model.read(record)): row for record in connection.execute(model.select())}
            for model in READ_MODELS
        }


def test_a_village_restored_on_a_new_server_has_the_same_truth_and_the_same_read_models(
    database: Database, tmp_path: Path, short_home: Path
) -> None:
    keys = load_sealing_keys(tmp_path, ORIGIN)
    live(database, keys)
    before = rows(database)
    archive = archive_store(None, tmp_path)
    archived = archive_closed(database, archive, ["tokenomics.Transfer.Posted"], datetime(2100, 1, 1, tzinfo=UTC))
    assert archived.facts == 1
    manifest = backup(database.url, tmp_path / "village.backup")

    with EmbeddedPostgres(short_home / "restored") as server, Database(server.url) as restored:
        assert restore(server.url, tmp_path / "village.backup") == manifest
        with restored.connect(Role.READER) as connection:
            assert missing_files(connection, archive) == []
            assert missing_files(connection, archive_store(None, tmp_path / "elsewhere")) == archived.files
        project(restored)
        with restored.connect(Role.READER) as connection:
            verdict = audit(connection, keys.verifiers)
            assert (verdict.honest, verdict.facts, verdict.sealed) == (True, manifest.head, manifest.head)
            assert compare(connection, READ_MODELS).differences == []
            cursors = connection.execute("SELECT position FROM engine.cursors WHERE name LIKE 'saga:%'").fetchall()
        assert rows(restored) == before
        assert cursors == [(7,)]
        _answers_as_before(server.url)


def test_a_backup_of_the_first_format_is_still_restored(
    database: Database, empty_database_url: str, tmp_path: Path
) -> None:
    live(database, load_sealing_keys(tmp_path, ORIGIN))
    manifest = backup(database.url, tmp_path / "b")
    _as_format_1(database.url, tmp_path / "b")
    restored = restore(empty_database_url, tmp_path / "b")
    assert (restored.format, restored.head) == (1, manifest.head)
    assert records(empty_database_url) == records(database.url)


def test_a_backup_of_before_sagas_were_renamed_lets_them_go_on_where_they_stood(
    database: Database, empty_database_url: str, tmp_path: Path
) -> None:
    live(database, load_sealing_keys(tmp_path, ORIGIN))
    with database.connect(Role.WRITER) as connection:
        connection.execute("UPDATE engine.cursors SET name = 'saga:RewardTraining' WHERE name = 'saga:reward_training'")
    backup(database.url, tmp_path / "b")
    _of_schema("0094", tmp_path / "b")
    restore(empty_database_url, tmp_path / "b")
    with psycopg.connect(empty_database_url) as connection:
        cursors = connection.execute("SELECT name, position FROM engine.cursors WHERE name LIKE 'saga:%'").fetchall()
    assert cursors == [("saga:reward_training", 7)]


def _of_schema(revision: str, file: Path) -> None:
    """A backup says that it is of another schema."""
    with tarfile.open(file, "r:gz") as whole, tarfile.open(file.with_name("other"), "w:gz") as other:
        for member in whole.getmembers():
            content = whole.extractfile(member)
            assert content is not None
            data = content.read()
            if member.name == "manifest.json":
                data = json.dumps(json.loads(data) | {"revision": revision}).encode()
            member.size = len(data)
            other.addfile(member, io.BytesIO(data))
    file.with_name("other").rename(file)


def _as_format_1(url: str, file: Path) -> None:
    with tarfile.open(file, "r:gz") as new, tarfile.open(file.with_name("old"), "w:gz") as old:
        for member in new.getmembers():
            content = new.extractfile(member)
            assert content is not None
            data = content.read()
            if member.name == "log.archives":
                continue
            if member.name == "log.events":
                columns = ", ".join(FORMAT_1[member.name])
                statement = f"COPY log.events ({columns}) TO STDOUT (FORMAT BINARY)".encode()
                with psycopg.connect(url) as connection, connection.cursor().copy(statement) as copy:
                    data = b"".join(bytes(chunk) for chunk in copy)
            if member.name == "manifest.json":
                manifest = json.loads(data)
                data = json.dumps({key: manifest[key] for key in ("revision", "head", "rows")} | {"format": 1}).encode()
            member.size = len(data)
            old.addfile(member, io.BytesIO(data))
    file.with_name("old").rename(file)


def _answers_as_before(url: str) -> None:
    """An idempotency key of before the backup still gives its first answer, and the log goes on where it was."""
    log = open_event_log(url)
    head = log.head()
    with within(new_scope("operator:test", idempotency_key="key 3", body_hash=b"body")):
        receipt = TokenomicsService(log).open_wallet(owner_id=uuid4())
    assert receipt.position < head == log.head()
    with within(new_scope("operator:test")):
        assert TokenomicsService(log).open_wallet(owner_id=uuid4()).position == head + 1
    log.close()


def test_a_backup_is_a_file_only_its_owner_can_read(database: Database, tmp_path: Path) -> None:
    backup(database.url, tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "b.keys").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b.keys"]


def test_a_backup_never_overwrites_a_file(database: Database, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("precious")
    with pytest.raises(FileExistsError):
        backup(database.url, tmp_path / "b")
    assert (tmp_path / "b").read_text() == "precious"
    (tmp_path / "b").rename(tmp_path / "c.keys")
    with pytest.raises(FileExistsError):
        backup(database.url, tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c.keys"]


def test_a_backup_made_while_facts_are_recorded_and_sealed_holds_one_moment_of_the_log(
    database: Database, empty_database_url: str, tmp_path: Path
) -> None:
    keys = load_sealing_keys(tmp_path, ORIGIN)

    def go_on(stopping: Event) -> None:
        with closing(open_event_log(database.url)) as log:
            while not stopping.is_set():
                with within(new_scope("test", idempotency_key=str(uuid4()), body_hash=b"body")):
                    TokenomicsService(log).open_wallet(owner_id=uuid4())

    with in_background(go_on, LogSealer(database, lambda: keys).run):
        until_at_least(database, 50)
        manifest = backup(database.url, tmp_path / "b")
        until_at_least(database, manifest.head + 10)
    restore(empty_database_url, tmp_path / "b")

    found = records(empty_database_url)
    assert_sound(found)
    assert len(found) == manifest.head >= 50
    with psycopg.connect(empty_database_url) as restored:
        assert audit(restored, keys.verifiers).honest
        assert restored.execute("SELECT count(*), max(position) FROM log.commands").fetchone() == (len(found),) * 2


def until_at_least(database: Database, facts: int) -> None:
    def recorded() -> bool:
        with database.reader.connection() as connection:
            return len(LogReader(connection).at([facts])) == 1

    assert eventually(recorded, 60)


def test_a_backup_is_not_restored_over_facts(database: Database, tmp_path: Path) -> None:
    live(database, load_sealing_keys(tmp_path, ORIGIN))
    backup(database.url, tmp_path / "b")
    with pytest.raises(TargetNotEmpty):
        restore(database.url, tmp_path / "b")


def test_keys_of_subjects_are_in_a_file_of_their_own_and_the_newest_one_keeps_the_erased_erased(
    database: Database, empty_database_url: str, tmp_path: Path
) -> None:
    keys = SubjectKeyTable(database, KeyEncryptionKeys(tmp_path))
    gone, stays = sealed(keys, b"rent"), sealed(keys, b"tea")
    backup(database.url, tmp_path / "old")
    keys.destroy([gone.sealed.subject])
    backup(database.url, tmp_path / "new")
    with database.connect(Role.WRITER) as connection:
        (wrapped,) = [row[0] for row in connection.execute("SELECT wrapped FROM edge.subject_keys") if row[0]]
    assert not any(holds(tmp_path / name, wrapped) for name in ("old", "new"))
    assert all(holds(tmp_path / name, wrapped) for name in ("old.keys", "new.keys"))

    (tmp_path / "new.keys").replace(tmp_path / "old.keys")  # the newest keys with an older log
    restore(empty_database_url, tmp_path / "old")
    with Database(empty_database_url) as restored:
        shown = SubjectKeyTable(restored, KeyEncryptionKeys(tmp_path)).open([gone, stays])
    assert (shown[gone].erased, shown[stays].text) == (True, "tea")


def test_without_the_keys_of_subjects_a_village_is_restored_and_what_was_sealed_stays_closed(
    database: Database, empty_database_url: str, tmp_path: Path
) -> None:
    text = sealed(SubjectKeyTable(database, KeyEncryptionKeys(tmp_path)), b"rent")
    backup(database.url, tmp_path / "b")
    (tmp_path / "b.keys").unlink()
    restore(empty_database_url, tmp_path / "b")
    with Database(empty_database_url) as restored:
        shown = SubjectKeyTable(restored, KeyEncryptionKeys(tmp_path)).open([text])[text]
    assert (shown.text, shown.erased) == (None, False)


def sealed(keys: SubjectKeyTable, text: bytes) -> SealedText:
    """A text of a new subject."""
    place = UUID(int=7), "topic", "field"
    return SealedText(*place, keys.seal(uuid4(), text, place_of(*place)))


def holds(file: Path, content: bytes) -> bool:
    """Whether a table of the backup has these bytes in it."""
    with tarfile.open(file) as archive:
        return any(content in member.read() for each in archive if (member := archive.extractfile(each)))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _without_events(file: Path) -> None:
    with tarfile.open(file, "r:gz") as whole, tarfile.open(file.with_name("less"), "w:gz") as less:
        for member in whole.getmembers():
            if member.name != "log.events":
                less.addfile(member, whole.extractfile(member))
    file.with_name("less").rename(file)


def _not_a_backup(file: Path) -> None:
    file.write_bytes(b"something else")


def _of_a_newer_release(file: Path) -> None:
    _of_schema("9999", file)


@pytest.mark.parametrize("damage", [_cut, _without_events, _not_a_backup, _of_a_newer_release])
def test_a_damaged_backup_is_refused_and_changes_nothing(
    database: Database, empty_database_url: str, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    live(database, load_sealing_keys(tmp_path, ORIGIN))
    backup(database.url, tmp_path / "b")
    damage(tmp_path / "b")
    migrate(empty_database_url)
    with pytest.raises(BackupInvalid):
        restore(empty_database_url, tmp_path / "b")
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM log.events").fetchone() == (0,)
