"""The subject eraser: what the log says is erased has no key soon, whatever stops in between."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from domain.kernel import EventLog, new_scope, within
from domain.kernel.personal import SealedText, place_of
from domain.privacy.service import PrivacyService
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable
from projections import privacy
from tests.running import in_threads
from workers.projector import Projector
from workers.subject_eraser import SubjectEraser

EVENT = UUID(int=7)


class Registry:
    """The parts that an erasure passes through; each can be stopped and started anew."""

    def __init__(self, url: str, database: Database, home: Path) -> None:
        self.database = database
        self.keys = SubjectKeyTable(database, KeyEncryptionKeys(home))
        self.log: EventLog = open_event_log(url)

    def sealed(self, subject: UUID) -> SealedText:
        return SealedText(EVENT, "topic", "field", self.keys.seal(subject, b"rent", place_of(EVENT, "topic", "field")))

    def erase(self, *subjects: UUID) -> None:
        """Recorded and projected; no eraser has run."""
        for subject in subjects:
            with within(new_scope("operator:test")):
                PrivacyService(self.log).erase_subject(subject_id=subject, reason="asked for it")
        projector = Projector(self.database, list(privacy.READ_MODELS))
        projector.run_once()
        projector.close()

    def eraser(self) -> SubjectEraser:
        """One that has just been started."""
        return SubjectEraser(self.database, self.keys)

    def text(self, text: SealedText) -> str | None:
        return self.keys.open([text])[text].text

    def is_erased(self, subject: UUID) -> bool:
        state = self.keys.state(subject)
        return state is not None and state.erased_at is not None


@pytest.fixture
def registry(database_url: str, database: Database, tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(database_url, database, tmp_path)
    yield registry
    registry.log.close()


def test_keys_of_those_who_are_erased_are_destroyed_and_no_others(registry: Registry) -> None:
    gone, stays, never_had = uuid4(), uuid4(), uuid4()
    texts = [registry.sealed(gone), registry.sealed(stays)]
    registry.erase(gone, never_had)
    assert registry.eraser().tick() == 2
    assert registry.eraser().tick() == 0
    assert [registry.text(text) for text in texts] == [None, "rent"]
    assert [registry.is_erased(subject) for subject in (gone, stays, never_had)] == [True, False, True]


def test_an_eraser_that_dies_between_the_fact_and_the_key_leaves_the_rest_to_the_next(registry: Registry) -> None:
    subject = uuid4()
    text = registry.sealed(subject)
    registry.erase(subject)
    own = registry.database.connect(Role.WRITER, autocommit=False)
    own.execute("UPDATE edge.subject_keys SET wrapped = NULL, kek_version = NULL, erased_at = now()")
    own.close()  # as a kill in the middle of the destruction would: the server takes it back
    assert registry.text(text) == "rent"
    assert registry.eraser().tick() == 1
    assert registry.text(text) is None


def test_a_key_that_comes_back_from_a_backup_is_destroyed_again(registry: Registry) -> None:
    subject = uuid4()
    text = registry.sealed(subject)
    with registry.database.connect(Role.WRITER) as connection:
        kept = connection.execute("SELECT wrapped, kek_version FROM edge.subject_keys").fetchone()
    registry.erase(subject)
    registry.eraser().tick()
    assert kept is not None
    with registry.database.connect(Role.WRITER) as connection:
        connection.execute("UPDATE edge.subject_keys SET wrapped = %s, kek_version = %s, erased_at = NULL", kept)
    assert registry.text(text) == "rent"
    assert registry.eraser().tick() == 1
    assert registry.text(text) is None


def test_erasers_at_once_do_no_harm(registry: Registry) -> None:
    subjects = [uuid4() for _ in range(20)]
    for subject in subjects[::2]:
        registry.sealed(subject)
    registry.erase(*subjects)
    assert in_threads(4, lambda index: registry.eraser().tick()) == []
    assert all(map(registry.is_erased, subjects))
