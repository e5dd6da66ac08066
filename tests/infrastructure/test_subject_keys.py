"""Keys of subjects: made once, wrapped, rotated, and destroyed for good; readable by those who need them only."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from domain.kernel import EventLog, Personal, Receipt
from domain.kernel.errors import SealingUnavailable, SubjectErased
from domain.kernel.personal import SealedText, Shown, place_of
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from infrastructure.keys import KeyStoreUnsafe
from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable
from tests.domain.kernel.test_personal import Letter
from tests.running import asked, in_threads, records

EVENT = UUID(int=7)


@pytest.fixture
def wrapping(tmp_path: Path) -> KeyEncryptionKeys:
    return KeyEncryptionKeys(tmp_path)


@pytest.fixture
def keys(database: Database, wrapping: KeyEncryptionKeys) -> SubjectKeyTable:
    return SubjectKeyTable(database, wrapping)


def sealed(keys: SubjectKeyTable, subject: UUID, text: str = "rent") -> SealedText:
    return SealedText(EVENT, "topic", "field", keys.seal(subject, text.encode(), place_of(EVENT, "topic", "field")))


def shown(keys: SubjectKeyTable, text: SealedText) -> Shown:
    return keys.open([text])[text]


def table(database: Database, columns: str = "*") -> list[Any]:
    with database.connect(Role.WRITER) as connection:
        return connection.execute(f"SELECT {columns} FROM edge.subject_keys ORDER BY subject".encode()).fetchall()


def test_a_subject_s_key_is_made_once_and_opens_what_any_process_sealed(
    keys: SubjectKeyTable, database: Database, wrapping: KeyEncryptionKeys
) -> None:
    subject = uuid4()
    first, second = sealed(keys, subject), sealed(SubjectKeyTable(database, wrapping), subject, "tea")
    assert keys.open([first, second]) == {first: Shown(subject, "rent", False), second: Shown(subject, "tea", False)}
    assert len(table(database)) == 1
    assert keys.open([]) == {}


def test_processes_that_seal_for_a_new_subject_at_once_agree_on_its_key(
    keys: SubjectKeyTable, database: Database
) -> None:
    subject, made = uuid4(), []
    assert in_threads(8, lambda index: made.append(sealed(keys, subject, f"text {index}"))) == []
    assert len(table(database)) == 1
    assert {view.text for view in keys.open(made).values()} == {f"text {index}" for index in range(8)}


def test_an_erased_subject_s_texts_are_tombstones_and_it_gets_no_key_again(
    keys: SubjectKeyTable, database: Database
) -> None:
    subject, other = uuid4(), uuid4()
    text, left = sealed(keys, subject), sealed(keys, other)
    assert keys.destroy([subject]) == 1
    assert keys.destroy([subject]) == 0
    assert keys.open([text, left]) == {text: Shown(subject, None, True), left: Shown(other, "rent", False)}
    with pytest.raises(SubjectErased) as refusal:
        sealed(keys, subject)
    assert refusal.value.code == "subject_erased"
    assert [row for row in table(database, "subject, wrapped, kek_version") if row[0] == subject] == [
        (subject, None, None)
    ]


def test_a_subject_erased_before_it_ever_had_a_key_never_gets_one(keys: SubjectKeyTable) -> None:
    subject = uuid4()
    keys.destroy([subject])
    with pytest.raises(SubjectErased):
        sealed(keys, subject)
    state = keys.state(subject)
    assert state is not None
    assert state.erased_at is not None
    assert keys.state(uuid4()) is None


def test_the_key_that_wraps_is_a_file_only_its_owner_can_read(keys: SubjectKeyTable, tmp_path: Path) -> None:
    sealed(keys, uuid4())
    path = tmp_path / "keys" / "subjects_0001.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    path.chmod(0o644)
    with pytest.raises(KeyStoreUnsafe):
        sealed(keys, uuid4())


def test_rotation_wraps_every_key_anew_and_the_old_file_can_go(
    keys: SubjectKeyTable, database: Database, wrapping: KeyEncryptionKeys, tmp_path: Path
) -> None:
    subjects = [uuid4() for _ in range(7)]
    before = [sealed(keys, subject) for subject in subjects]
    keys.destroy(subjects[:2])
    old = dict(table(database, "subject, wrapped"))
    assert wrapping.rotate() == 2
    assert keys.rewrap() == 5
    assert keys.rewrap() == 0
    (tmp_path / "keys" / "subjects_0001.key").unlink()
    later = sealed(keys, subjects[2], "later")
    assert {view.text for view in keys.open([*before[2:], later]).values()} == {"rent", "later"}
    assert [keys.open(before)[text].erased for text in before] == [True, True, *[False] * 5]
    assert {version for (version,) in table(database, "kek_version")} == {2, None}
    assert all(wrapped != old[subject] for subject, wrapped in table(database, "subject, wrapped") if wrapped)
    assert wrapping.rotate() == 3


def test_a_key_destroyed_while_keys_are_wrapped_anew_stays_destroyed(
    keys: SubjectKeyTable, database: Database, wrapping: KeyEncryptionKeys
) -> None:
    subject = uuid4()
    text = sealed(keys, subject)
    wrapping.rotate()

    class Slow(SubjectKeyTable):
        def _older(self, version: int) -> list[tuple[UUID, bytes, int]]:
            older = super()._older(version)
            keys.destroy([subject])
            return older

    assert Slow(database, wrapping).rewrap() == 0
    assert shown(keys, text).erased


def test_a_wrapping_key_that_is_gone_is_told_and_nothing_is_made_in_its_place(
    keys: SubjectKeyTable, database: Database, wrapping: KeyEncryptionKeys, tmp_path: Path
) -> None:
    subject = uuid4()
    text = sealed(keys, subject)
    held = table(database)
    path = tmp_path / "keys" / "subjects_0001.key"
    away = path.rename(tmp_path / "away")
    wrapping.rotate()
    path.unlink()  # as if the folder were another village's
    wrapping.rotate()
    assert shown(keys, text) == Shown(subject, None, False)
    with pytest.raises(SealingUnavailable):
        sealed(keys, subject)
    assert table(database) == held
    away.replace(path)
    assert shown(keys, text).text == "rent"


def test_a_wrapped_key_put_into_another_row_opens_nothing(keys: SubjectKeyTable, database: Database) -> None:
    ann, bob = uuid4(), uuid4()
    text = sealed(keys, ann)
    sealed(keys, bob)
    with database.connect(Role.WRITER) as connection:
        connection.execute(
            "UPDATE edge.subject_keys SET wrapped = (SELECT wrapped FROM edge.subject_keys WHERE subject = %s)", (ann,)
        )
    keys.destroy([ann])
    with pytest.raises(SealingUnavailable):
        sealed(keys, bob)
    relabelled = SealedText(EVENT, "topic", "field", type(text.sealed)(bob, text.sealed.nonce, text.sealed.ciphertext))
    assert shown(keys, relabelled) == Shown(bob, None, False)


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role.WRITER, {"read", "state", "make", "destroy"}),
        (Role.READER, {"state"}),
        (Role.PROJECTOR, set[str]()),
    ],
)
def test_only_the_writer_reads_keys_and_nobody_removes_a_row(
    keys: SubjectKeyTable, database: Database, role: Role, allowed: set[str]
) -> None:
    sealed(keys, uuid4())
    statements = {
        "read": "SELECT wrapped FROM edge.subject_keys",
        "state": "SELECT subject, created_at, erased_at FROM edge.subject_keys",
        "make": "INSERT INTO edge.subject_keys (subject, wrapped, kek_version) VALUES (gen_random_uuid(), '', 1)",
        "destroy": "UPDATE edge.subject_keys SET wrapped = NULL, kek_version = NULL, erased_at = now()",
        "remove": "DELETE FROM edge.subject_keys",
        "empty": "TRUNCATE edge.subject_keys",
    }
    done = set()
    with database.connect(role) as connection:
        for name, statement in statements.items():
            try:
                connection.execute(statement.encode())
                done.add(name)
            except InsufficientPrivilege:
                pass
    assert done == allowed


@pytest.fixture
def log(database_url: str, keys: SubjectKeyTable) -> Iterator[EventLog]:
    log = open_event_log(database_url, subject_keys=keys)
    yield log
    log.close()


def write(log: EventLog, subject: UUID, text: str) -> Receipt:
    letter_id = uuid4()
    with asked():
        return log.record(
            Letter._create(Letter.Written, letter_id=letter_id, body=Personal(subject, text), postscript=None)
        )


def test_a_log_seals_as_it_records_and_nothing_on_disk_has_the_text(
    log: EventLog, keys: SubjectKeyTable, database_url: str
) -> None:
    subject = uuid4()
    write(log, subject, "Confidential-7731")
    (record,) = records(database_url)
    assert b"Confidential-7731" not in record.state
    assert shown(keys, SealedText(record.event_id, record.topic, "body", record.fact().event.body)).text == (
        "Confidential-7731"
    )


def test_a_log_without_keys_refuses_personal_text_and_records_nothing(database_url: str) -> None:
    bare = open_event_log(database_url)
    with pytest.raises(SealingUnavailable):
        write(bare, uuid4(), "rent")
    assert bare.head() == 0
    bare.close()


def test_a_log_whose_keys_do_not_answer_refuses_and_records_nothing(
    log: EventLog, keys: SubjectKeyTable, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE edge.subject_keys RENAME TO lost_keys")
    with pytest.raises(SealingUnavailable):
        write(log, uuid4(), "rent")
    assert log.head() == 0


def test_a_log_records_nothing_personal_of_somebody_erased(log: EventLog, keys: SubjectKeyTable) -> None:
    subject = uuid4()
    write(log, subject, "rent")
    keys.destroy([subject])
    with pytest.raises(SubjectErased):
        write(log, subject, "rent")
    assert log.head() == 1
