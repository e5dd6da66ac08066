"""The log sealer: extends the Merkle tree over new facts and signs its root, off the hot path."""

import threading
from collections.abc import Callable
from typing import Any

import psycopg

from domain.audit.checkpoint import Checkpoint, sign
from infrastructure.audit import BATCH, SealedLog
from infrastructure.database import Database, Role
from infrastructure.event_store.listener import Pacer
from infrastructure.event_store.reader import LogReader
from infrastructure.sealing_keys import SealingKeys

from .pump import run_forever

INTERVAL_S = 1.0
SEALER_LOCK = 6_220_962_611
"""Key of the advisory lock that lets one sealer work at a time."""


class LogSealer:
    """Seals the log about once a second. A second sealer waits its turn; a crash leaves only whole steps.

    `keys` is asked for each checkpoint, so that a key rotated in signs the next one.
    """

    def __init__(self, database: Database, keys: Callable[[], SealingKeys]) -> None:
        self._database = database
        self._keys = keys
        self._connection: psycopg.Connection[Any] | None = None

    def run(self, stopping: threading.Event) -> None:
        """Seal until told to stop."""
        pacer = Pacer(None, INTERVAL_S)
        try:
            run_forever("log sealer", self.step, pacer, stopping)
        finally:
            self.close()

    def run_once(self) -> int:
        """Seal everything that stands now; answers the size of the newest checkpoint."""
        while self.step():
            pass
        newest = SealedLog(self._open()).newest_checkpoint()
        return 0 if newest is None else newest[0]

    def step(self) -> bool:
        """Hash one batch, and sign when that was the last; whether there may be more."""
        connection = self._open()
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (SEALER_LOCK,))
            sealed = SealedLog(connection)
            edge = sealed.edge(sealed.hashed())
            records = LogReader(connection).after(edge.size, BATCH).records
            sealed.extend(edge, records)
            if len(records) >= BATCH:
                return True
            if edge.size and sealed.checkpoint(edge.size) is None:
                keys = self._keys()
                checkpoint = Checkpoint(keys.name, edge.size, edge.root())
                sealed.add_checkpoint(edge.size, sign(checkpoint, keys.name, keys.current))
        return False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect(Role.WRITER)
        return self._connection
