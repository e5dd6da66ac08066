"""A flush decided on what its writer knows of the log: written where that is so, else decided again on what is read."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from domain.kernel import AggregateNotFound, AlreadyExists, Conflict, CursorMove, new_scope
from domain.kernel.errors import IdempotencyKeyReused
from domain.kernel.write import Write, Written
from infrastructure.database import Database, Role
from infrastructure.event_store.flush import Flush
from infrastructure.event_store.known import MAX_GUESSED, MAX_STREAMS, Known
from tests.infrastructure.event_store.test_flush import DEPOSITED, OPENED, WITHDRAWN, append, flushed, kinds, write
from tests.running import assert_sound, records

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Writer:
    """One process's writer: a connection, and what it knows."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.known = Known()
        for _ in range(2):  # it trusts what it knows when two flushes in a row found nothing between them
            self.flush(write(uuid4()))

    def flush(self, *writes: Write) -> list[Any]:
        return Flush(list(writes), lambda: NOW, known=self.known).run(self.connection)

    def guesses(self, *writes: Write) -> bool:
        return self.known.guess(writes, lambda stream, version: []) is not None


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    with database.connect(Role.WRITER) as connection:
        yield Writer(connection)


def keyed_write(key: str, *streams: Any) -> Write:
    scope = new_scope("test", idempotency_key=key, body_hash=b"h")
    appends = [append(scope.command_id, index, stream, 1, OPENED) for index, stream in enumerate(streams)]
    return Write(scope, "crafted", appends, reads={stream.int: 0 for stream in streams})


def opening(stream: Any) -> Write:
    """As a command opens a stream that it did not find."""
    made = write(stream)
    made.reads[stream.int] = 0
    return made


def test_what_a_writer_has_written_or_its_commands_have_read_it_knows(writer: Writer) -> None:
    a = uuid4()
    assert writer.guesses(opening(a)), "its command found no stream"
    assert not writer.guesses(write(a, (None, DEPOSITED))), "nobody has read it"
    assert not writer.guesses(write(a, cursors=[CursorMove("reader", 0, 0, 1)]))
    writer.flush(opening(a))
    assert writer.guesses(write(a, (None, DEPOSITED)))


def test_whoever_is_alone_gets_the_answers_that_reading_gives(writer: Writer, database_url: str) -> None:
    a, b = uuid4(), uuid4()
    outcomes = writer.flush(opening(a), write(a, (None, DEPOSITED)), write(a, (2, WITHDRAWN)), opening(b))
    assert [outcome.versions for outcome in outcomes] == [(1,), (2,), (3,), (1,)]
    assert [outcome.receipt.position for outcome in outcomes] == [3, 4, 5, 6]
    assert writer.flush(write(a, (4, WITHDRAWN)))[0].versions == (4,)
    assert_sound(records(database_url))


def test_what_another_process_has_appended_meanwhile_is_found(
    writer: Writer, database: Database, database_url: str
) -> None:
    a = uuid4()
    writer.flush(opening(a))
    for version in (2, 4, 6):
        flushed(database, write(a, (None, DEPOSITED)))
        assert writer.guesses(write(a, (None, DEPOSITED))) is (version == 2), "it trusts itself no more"
        assert [outcome.versions for outcome in writer.flush(write(a, (None, DEPOSITED)))] == [(version + 1,)]
    flushed(database, write(a, (8, WITHDRAWN)))
    assert kinds(writer.flush(write(a, (8, WITHDRAWN)), write(a))) == [Conflict, AlreadyExists]
    assert_sound(records(database_url))


def test_a_guess_that_is_wrong_writes_nothing_of_the_largest_flush_that_is_guessed(
    writer: Writer, database: Database, database_url: str
) -> None:
    a = uuid4()
    writer.flush(opening(a))
    flushed(database, write(a, *[(None, DEPOSITED)] * MAX_GUESSED))
    many = write(a, *[(None, DEPOSITED)] * MAX_GUESSED)
    assert writer.guesses(many)
    (written,) = writer.flush(many)
    first = 2 + MAX_GUESSED
    assert written.versions == tuple(range(first, first + MAX_GUESSED))
    assert_sound(records(database_url))


def test_a_large_guess_that_is_right_is_written_whole_and_in_order(writer: Writer, database_url: str) -> None:
    a, b = uuid4(), uuid4()
    writer.flush(opening(a))
    many = [write(a, *[(None, DEPOSITED)] * 300), opening(b), write(a, *[(None, DEPOSITED)] * 300)]
    assert writer.guesses(*many)
    before = len(records(database_url))
    assert [outcome.receipt.position - before for outcome in writer.flush(*many)] == [300, 301, 601]
    assert writer.guesses(write(b, (None, DEPOSITED))), "what a large flush has left is known"
    assert writer.flush(write(a, (None, DEPOSITED)))[0].versions == (602,)
    assert_sound(records(database_url))


def test_what_was_known_of_a_log_that_has_lost_facts_is_not_believed(
    writer: Writer, database: Database, database_url: str
) -> None:
    a, b = uuid4(), uuid4()
    writer.flush(opening(a), opening(b))
    with psycopg.connect(database_url) as admin:
        admin.execute("TRUNCATE log.events")
    flushed(database, *[write(uuid4()) for _ in range(4)])  # as many as there were, and others
    for stream in (b, a, b):
        assert kinds(writer.flush(write(stream, (None, DEPOSITED)))) == [AggregateNotFound]
    assert_sound(records(database_url))


def test_a_larger_flush_is_read_first_and_forgets_what_was_known(writer: Writer, database_url: str) -> None:
    a = uuid4()
    writer.flush(opening(a))
    many = write(a, *[(None, DEPOSITED)] * (MAX_GUESSED + 1))
    assert not writer.guesses(many)
    assert writer.flush(many)[0].versions == tuple(range(2, MAX_GUESSED + 3))
    assert not writer.guesses(write(a, (None, DEPOSITED)))
    assert writer.flush(write(a, (None, DEPOSITED)))[0].versions == (MAX_GUESSED + 3,)
    assert writer.guesses(write(a, (None, DEPOSITED)))
    assert_sound(records(database_url))


def test_a_stream_that_was_opened_where_its_command_found_none_is_a_conflict_not_an_error(
    writer: Writer, database: Database, database_url: str
) -> None:
    a = uuid4()
    flushed(database, write(a))
    assert writer.guesses(opening(a))
    assert kinds(writer.flush(opening(a))) == [Conflict]
    assert_sound(records(database_url))


def test_a_key_that_another_process_has_answered_without_a_fact_is_answered_as_before(
    writer: Writer, database: Database
) -> None:
    flushed(database, keyed_write("k"))
    again, other = keyed_write("k", uuid4()), keyed_write("k", uuid4())
    assert writer.guesses(again)
    (answer,) = writer.flush(again)
    assert answer.replayed
    other.scope = new_scope("test", idempotency_key="k", body_hash=b"other")
    assert kinds(writer.flush(other)) == [IdempotencyKeyReused]


def test_a_key_of_a_guess_is_kept_with_its_answer(writer: Writer, database: Database) -> None:
    (first,) = writer.flush(keyed_write("k", uuid4()))
    (again,) = flushed(database, keyed_write("k", uuid4()))
    assert (again.replayed, again.receipt) == (True, first.receipt)


def test_whatever_is_refused_is_refused_on_what_was_read(writer: Writer) -> None:
    a = uuid4()
    writer.flush(opening(a))
    assert kinds(writer.flush(opening(a), write(a, (2, WITHDRAWN)))) == [Conflict, Written]
    assert writer.guesses(write(a, (3, WITHDRAWN))), "nobody else has appended"


def test_a_writer_remembers_a_bounded_number_of_streams(writer: Writer) -> None:
    for _ in range(5):
        many = write(uuid4())
        many.reads = {uuid4().int: 0 for _ in range(4_000)}
        writer.flush(many)
    assert writer.known.streams == MAX_STREAMS < 20_000
