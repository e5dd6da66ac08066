"""One flush: what becomes of each command of a group, and of the group when one cannot even be tried."""

import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

import psycopg

from domain.kernel import AlreadyExists, Conflict, CursorMove, new_scope
from domain.kernel.errors import AggregateNotFound, CursorMoved
from domain.kernel.write import Append, Write, Written
from infrastructure.database import Database, Role
from infrastructure.event_store.flush import LOG_LOCK, Flush
from infrastructure.event_store.recorder import MAX_EVENTS_PER_FLUSH, MAX_WRITES_PER_FLUSH, PostgresRecorder
from tests.running import assert_sound, join, records

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OPENED, DEPOSITED, WITHDRAWN = (f"testing.Account.{name}" for name in ("Opened", "Deposited", "Withdrawn"))


def append(write_id: UUID, index: int, stream: UUID, version: int | None, topic: str) -> Append:
    state = b'{"account_id":"%s","owner":"x"}' % str(stream).encode() if topic == OPENED else b'{"grains":1}'
    return Append(
        stream, version, topic, state, uuid5(write_id, str(index)).bytes, opener=topic == OPENED and version is None
    )


def write(stream: UUID, *given: tuple[int | None, str], actor: str = "test", cursors: Any = ()) -> Write:
    """A crafted write: by default it opens the stream; else `(version, topic)` an event."""
    scope = new_scope(actor)
    events = given or ((1, OPENED),)
    appends = [append(scope.command_id, index, stream, *one) for index, one in enumerate(events)]
    return Write(scope, "crafted", appends, cursors=cursors)


def flushed(database: Database, *writes: Write) -> list[Any]:
    with database.connect(Role.WRITER) as connection:
        return Flush(list(writes), lambda: NOW).run(connection)


def kinds(outcomes: list[Any]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def test_a_conflict_fails_only_its_own_command(database: Database, database_url: str) -> None:
    a, b = uuid4(), uuid4()
    outcomes = flushed(
        database,
        write(a),
        write(a),
        write(b, (1, OPENED), (2, DEPOSITED)),
        write(a, (3, WITHDRAWN)),
        write(a, (2, WITHDRAWN)),
        write(a, (2, WITHDRAWN)),
        write(uuid4(), (None, DEPOSITED)),
        write(b, (None, DEPOSITED)),
    )
    assert kinds(outcomes) == [
        Written, AlreadyExists, Written, Conflict, Written, Conflict, AggregateNotFound, Written,
    ]  # fmt: skip
    assert [outcome.receipt.position for outcome in outcomes if isinstance(outcome, Written)] == [1, 3, 4, 5]
    assert_sound(records(database_url))
    assert len(records(database_url)) == 5


def test_a_command_is_all_or_nothing_even_when_only_one_of_its_streams_has_moved(
    database: Database, database_url: str
) -> None:
    a, b = uuid4(), uuid4()
    two = write(a)
    two.appends.append(append(two.scope.command_id, 1, b, 1, OPENED))
    assert kinds(flushed(database, write(b), two)) == [Written, AlreadyExists]
    assert [record.stream for record in records(database_url)] == [b]


def test_an_exact_append_passes_over_facts_that_commute_in_its_own_flush(database: Database) -> None:
    a = uuid4()
    outcomes = flushed(
        database, write(a), write(a, (None, DEPOSITED)), write(a, (None, DEPOSITED)), write(a, (2, WITHDRAWN))
    )
    assert [outcome.versions for outcome in outcomes] == [(1,), (2,), (3,), (4,)]


def test_an_exact_append_conflicts_with_one_that_does_not_commute_in_its_own_flush(database: Database) -> None:
    a = uuid4()
    outcomes = flushed(
        database, write(a), write(a, (2, WITHDRAWN)), write(a, (None, DEPOSITED)), write(a, (2, WITHDRAWN))
    )
    assert kinds(outcomes) == [Written, Written, Written, Conflict]


def test_a_topic_that_the_code_no_longer_has_is_not_passed_over(database: Database, database_url: str) -> None:
    a = uuid4()
    flushed(database, write(a))
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO log.events SELECT 2, stream, 2, 'testing.Account.Forgotten', state, gen_random_uuid(),"
            " gen_random_uuid(), correlation_id, NULL, actor, recorded_at FROM log.events"
        )
    assert kinds(flushed(database, write(a, (2, WITHDRAWN)))) == [Conflict]


def test_an_opener_that_is_not_needed_is_left_out_and_the_rest_of_its_command_stands(
    database: Database, database_url: str
) -> None:
    a = uuid4()
    first, second = (write(a, (None, OPENED), (None, DEPOSITED)) for _ in range(2))
    outcomes = flushed(database, first, second)
    assert [outcome.versions for outcome in outcomes] == [(1, 2), (0, 3)]
    assert [outcome.receipt.position for outcome in outcomes] == [2, 3]
    assert_sound(records(database_url))


def test_an_exact_append_behind_its_commands_own_opener_stands(database: Database) -> None:
    outcomes = flushed(database, write(uuid4(), (None, OPENED), (None, DEPOSITED), (2, WITHDRAWN)))
    assert outcomes[0].versions == (1, 2, 3)


def test_a_read_that_no_longer_holds_is_a_conflict_and_one_passed_only_by_commuting_facts_is_not(
    database: Database,
) -> None:
    a, b, c = uuid4(), uuid4(), uuid4()
    flushed(database, write(a), write(a, (2, WITHDRAWN)), write(b), write(b, (None, DEPOSITED)))
    stale, passed, absent, still_absent = (write(uuid4()) for _ in range(4))
    stale.reads[a.int] = 1
    passed.reads[b.int] = 1
    absent.reads[a.int] = 0
    still_absent.reads[c.int] = 0
    outcomes = flushed(database, stale, passed, absent, still_absent)
    assert kinds(outcomes) == [Conflict, Written, Conflict, Written]


def test_a_read_from_a_cache_holds_only_while_nothing_at_all_has_come_to_its_stream(database: Database) -> None:
    a = uuid4()
    flushed(database, write(a), write(a, (None, DEPOSITED)))
    stale, exact = write(uuid4()), write(uuid4())
    stale.reads[a.int], stale.cached = 1, True
    exact.reads[a.int], exact.cached = 2, True
    assert kinds(flushed(database, stale, exact)) == [Conflict, Written]


def test_a_command_that_cannot_be_tried_fails_alone(database: Database, database_url: str) -> None:
    recorder = PostgresRecorder(database)
    answers: dict[str, Any] = {}

    def tell(actor: str) -> None:
        try:
            answers[actor] = recorder.write(write(uuid4(), actor=actor))
        except Exception as error:
            answers[actor] = error

    actors = ["a", "b", "zero \0", "c", "d"]
    threads = [threading.Thread(target=tell, args=(actor,)) for actor in actors]
    try:
        with database.connect(Role.WRITER) as connection:
            # While the log is locked, what follows the first command waits together and becomes one group.
            connection.execute("SELECT pg_advisory_lock(%s)", (LOG_LOCK,))
            for thread in threads:
                thread.start()
        join(threads)
    finally:
        recorder.close()
    assert isinstance(answers.pop("zero \0"), psycopg.DataError)
    assert kinds(list(answers.values())) == [Written] * 4
    assert_sound(records(database_url))
    assert len(records(database_url)) == 4


def test_telling_of_a_flush_may_fail_without_repeating_it(database: Database, database_url: str) -> None:
    def fail(commands: int, waited_s: float) -> None:
        raise RuntimeError("the gauge is broken")

    recorder = PostgresRecorder(database)
    recorder.on_flush = fail
    try:
        assert recorder.write(write(uuid4())).receipt.position == 1
        assert recorder.write(write(uuid4())).receipt.position == 2
    finally:
        recorder.close()
    assert len(records(database_url)) == 2


def test_a_flush_is_told_with_its_commands_and_its_wait_for_the_lock(database: Database) -> None:
    told: list[tuple[int, float]] = []
    recorder = PostgresRecorder(database)
    recorder.on_flush = lambda commands, waited_s: told.append((commands, waited_s))
    try:
        recorder.write(write(uuid4()))
    finally:
        recorder.close()
    assert [commands for commands, _ in told] == [1]
    assert 0 < told[0][1] < 5


def test_the_bounds_of_a_flush_hold_the_largest_command_and_more() -> None:
    assert MAX_EVENTS_PER_FLUSH >= 4_096
    assert MAX_WRITES_PER_FLUSH > 32


def test_a_group_that_moves_one_cursor_twice_is_decided_in_order_of_arrival(database: Database) -> None:
    outcomes = flushed(
        database,
        write(uuid4(), cursors=(CursorMove("c", 0, 0, 5),)),
        write(uuid4(), cursors=(CursorMove("c", 0, 0, 6),)),
        write(uuid4(), cursors=(CursorMove("c", 0, 5, 7),)),
    )
    assert kinds(outcomes) == [Written, CursorMoved, Written]
