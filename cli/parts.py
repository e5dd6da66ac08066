"""What every process of a village shares: its database, its log and the services on them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from pydantic import SecretStr

from cli.errors import CommandFailed
from infrastructure.archive import archive_store, read_archive_at
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from domain.kernel import EventLog
    from domain.sagas.village import Village
    from infrastructure.blobs import BlobStore
    from infrastructure.database import Database
    from infrastructure.subject_keys import SubjectKeyTable

# A part of a worker: runs until the event is set.
Runner = Callable[[threading.Event], None]


def running_database_url(settings: Settings) -> str | None:
    """The database that is set, or else that of a village which runs in this home; None when there is none."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    try:
        url = (settings.home / "database.url").read_text().strip()
        psycopg.connect(url, connect_timeout=3).close()
    except (FileNotFoundError, psycopg.OperationalError):
        return None
    return url


def require_database(settings: Settings) -> Settings:
    """The settings with the database to use, whose archive is found from here on.

    Raises:
        CommandFailed: none is set and none runs here.
    """
    url = running_database_url(settings)
    if url is None:
        raise CommandFailed(
            f"No village runs in {settings.home}: start one with `village up`, or set VILLAGE_DATABASE_URL"
        )
    read_archive_at(lambda: archive_store(settings.blob_url, settings.home))
    return settings.model_copy(update={"database_url": SecretStr(url)})


@dataclass(frozen=True)
class Parts:
    """What every process of a village shares."""

    settings: Settings
    database: "Database"
    log: "EventLog"
    village: "Village"
    blobs: "BlobStore"
    subject_keys: "SubjectKeyTable"


@contextmanager
def parts(settings: Settings, name: str) -> Iterator[Parts]:
    """The services on their log and stores, closed at the end. `name` shows in the database's session list."""
    import domain.topics  # noqa: F401  (every stored topic must resolve)
    from cli.assembly import assemble
    from infrastructure.blobs import BlobStore
    from infrastructure.database import Database
    from infrastructure.event_store import open_event_log
    from infrastructure.metrics import flushed
    from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable

    assert settings.database_url is not None, "require_database comes first"
    url = settings.database_url.get_secret_value()
    with ExitStack() as ends:
        database = ends.enter_context(Database(url, pool_size=settings.pool_size, application=f"village-{name}"))
        subject_keys = SubjectKeyTable(database, KeyEncryptionKeys(settings.home))
        log = open_event_log(url, on_flush=flushed, subject_keys=subject_keys)
        ends.callback(log.close)
        blobs = BlobStore.open(settings.blob_url, home=settings.home)
        village = assemble(settings, database, log, blobs)
        yield Parts(settings, database, log, village, blobs, subject_keys)
