"""An aggregator in a process of its own, to be killed: `python -m tests.workers.aggregator.process URL HOME`."""

import sys
import threading
from pathlib import Path

import domain.topics  # noqa: F401  (every stored topic must resolve)
from domain.federated_learning.service import FederatedLearningService
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from workers.aggregator.worker import Aggregator


def main(url: str, home: Path) -> None:
    """Aggregate until killed."""
    log, store = open_event_log(url), BlobStore.open(None, home=home)
    with Database(url, application="aggregator") as database:
        Aggregator(log, database, FederatedLearningService(log, store), store).run(threading.Event())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
