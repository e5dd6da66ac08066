"""Statements that go down a connection together and are answered together: its thread waits once for all of them."""

from collections.abc import Generator
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many, send
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

_prepared: WeakKeyDictionary[psycopg.Connection[Any], dict[str, bytes]] = WeakKeyDictionary()


class Answer:
    """What a statement answered, once its exchange is over; of one that was never asked, nothing."""

    def __init__(self) -> None:
        self.result: PGresult | None = None

    def rows(self) -> list[tuple[Any, ...]]:
        """All rows, read from their binary form."""
        if self.result is None:
            return []
        reading = Transformer()
        reading.set_pgresult(self.result)
        return reading.load_rows(0, self.result.ntuples, tuple)

    @property
    def count(self) -> int:
        """How many rows it has touched."""
        return 0 if self.result is None else self.result.command_tuples or 0


class Exchange:
    """One pipeline (libpq's) of prepared statements: `ask` each, then `end`.

    The driver's own waits after every statement, which gives the interpreter away to other threads, each time until
    it gets it back, under the log's lock. Parameters are in binary form already; so are the answers. After an error
    the connection is of no more use.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._names = _prepared.setdefault(connection, {})
        self._asked: list[Answer] = []
        self._pgconn.enter_pipeline_mode()

    def ask(self, statement: str, *parameters: bytes) -> Answer:
        """Add a statement with parameters `$1`, `$2`, ...; it is prepared when this connection has not had it yet."""
        name = self._names.get(statement)
        if name is None:
            name = self._names[statement] = b"exchange_%d" % len(self._names)
            self._pgconn.send_prepare(name, statement.encode())
            self._asked.append(Answer())
        self._pgconn.send_query_prepared(name, parameters, [Format.BINARY] * len(parameters), Format.BINARY)
        self._asked.append(answer := Answer())
        return answer

    def send(self) -> None:
        """Let what was asked so far go to the server, as far as the socket takes it, without waiting."""
        self._pgconn.flush()

    def end(self) -> None:
        """Send what was asked and wait for every answer.

        Raises:
            psycopg.Error: the first statement that failed; the ones behind it were not tried.
        """
        self._pgconn.pipeline_sync()
        self._connection.wait(self._answers())
        self._pgconn.exit_pipeline_mode()

    def _answers(self) -> Generator[Any, Any, None]:
        """Read on behind a failure: only then is it known whether it was the end of the connection."""
        failure: psycopg.Error | None = None
        try:
            yield from send(self._pgconn)
            for answer in self._asked:
                answer.result = (yield from fetch_many(self._pgconn))[0]
                if failure is None and answer.result.status == ExecStatus.FATAL_ERROR:
                    failure = error_from_result(answer.result)
            yield from fetch_many(self._pgconn)  # the end of the pipeline
        except psycopg.OperationalError as lost:
            raise failure or lost from None
        if failure is not None:
            raise failure
