"""Copies of a migrated database: the next is made while a test runs, for making one takes as long as a short test."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict


def create(server_url: str, name: str, template: str) -> str:
    """A new database; answers its url. Copying files costs checkpoints, which are cheap without fsync."""
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
    url = server_url.replace("/village?", f"/{name}?")
    assert conninfo_to_dict(url)["dbname"] == name
    return url


def drop(url: str, server_url: str) -> None:
    """Ends its connections, too."""
    name = str(conninfo_to_dict(url)["dbname"])
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class Copies:
    """Of one template on one server. What fails in the background is raised by the next call."""

    def __init__(self, server_url: str, template: str) -> None:
        self._server_url, self._template = server_url, template
        self._numbers = count(1)
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="databases")
        self._next: Future[str] = self._behind.submit(self._make)
        self._dropped: Future[None] | None = None

    def take(self) -> str:
        """The url of a copy that nobody has used."""
        self._raise()
        url = self._next.result(120)
        self._next = self._behind.submit(self._make)
        return url

    def give_back(self, url: str) -> None:
        """Dropped with all its connections."""
        self._raise()
        self._dropped = self._behind.submit(drop, url, self._server_url)

    @contextmanager
    def one(self) -> Iterator[str]:
        """A copy for as long as the block."""
        url = self.take()
        try:
            yield url
        finally:
            self.give_back(url)

    def _make(self) -> str:
        return create(self._server_url, f"test_{next(self._numbers)}", self._template)

    def _raise(self) -> None:
        if self._dropped is not None and self._dropped.done():
            self._dropped.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._behind.shutdown()
        self._raise()
