"""Statements that go down a connection together and are answered together: its thread waits once for all of them."""

from collections.abc import Generator
from struct import Struct
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.generators import send
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.waiting import Wait

_FLOAT8 = Struct("!d")
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

    def number(self, column: int) -> float:
        """The float8 in a column of its one row."""
        value = None if self.result is None else self.result.get_value(0, column)
        assert value is not None
        return float(_FLOAT8.unpack(value)[0])

    @property
    def count(self) -> int:
        """How many rows it has touched."""
        return 0 if self.result is None else self.result.command_tuples or 0


class Exchange:
    """One pipeline (libpq's) of prepared statements: `ask` each, then `end`.

    Outside of a transaction block they are one transaction, which `end` commits. Parameters are in binary form
    already; so are the answers. After an error the connection is of no more use.

    Each call of libpq that lets other threads run costs more than what it does: the interpreter comes back when they
    give it back, and the log's lock is held meanwhile. So there are few of them: the driver's own makes two system
    calls for each answer, and waits after each statement.
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
            psycopg.Error: the first statement that failed, or the commit; the ones behind it were not tried.
        """
        self._pgconn.pipeline_sync()
        self._connection.wait(self._answers())
        self._pgconn.exit_pipeline_mode()

    def _answers(self) -> Generator[Any, Any, None]:
        """Read on behind a failure: only then is it known whether it was the end of the connection."""
        failure: psycopg.Error | None = None
        try:
            yield from send(self._pgconn)
            yield Wait.R
            self._pgconn.consume_input()
            for answer in self._asked:
                answer.result = yield from self._result()
                self._pgconn.get_result()  # None: the end of a statement's results
                failure = failure or _failure(answer.result)
            for _ in range(3):  # a failure of the commit and its end, then the end of the pipeline
                end = yield from self._result()
                failure = failure or _failure(end)
                if end is not None and end.status == ExecStatus.PIPELINE_SYNC:
                    break
        except psycopg.OperationalError as lost:
            raise failure or lost from None
        if failure is not None:
            raise failure

    def _result(self) -> Generator[Any, Any, PGresult | None]:
        while self._pgconn.is_busy():
            yield Wait.R
            self._pgconn.consume_input()
        return self._pgconn.get_result()


def _failure(result: PGresult | None) -> psycopg.Error | None:
    return error_from_result(result) if result is not None and result.status == ExecStatus.FATAL_ERROR else None
