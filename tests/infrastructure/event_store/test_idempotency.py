"""Idempotency keys: one key names one command for ever, and its first answer is its only one."""

import json
import multiprocessing
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.kernel import EventLog, Receipt
from domain.kernel.errors import IdempotencyKeyReused
from infrastructure.event_store import open_event_log
from tests.ledger import Account, Ledger, Overdrawn
from tests.running import BODY, asked, assert_sound, in_threads, keyed, names, opened, records

OTHER_BODY = b"\x02" * 32


def test_a_repeated_command_gets_the_whole_first_answer_and_records_nothing(
    database_url: str, ledger: Ledger, elsewhere: Ledger
) -> None:
    stream = opened(ledger, balance=5)
    with keyed("k"):
        first = ledger.withdraw(account_id=stream, grains=2)
    for service in (ledger, elsewhere):
        with keyed("k"):
            assert service.withdraw(account_id=stream, grains=2) == first
    assert (first.position, first.id, first.extra) == (3, stream, {"left": 3})
    assert names(database_url) == ["Opened", "Deposited", "Withdrawn"]


def test_the_first_answer_and_the_repeated_one_are_equal_whatever_else_it_tells(log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger)

    def decide() -> Receipt:
        return log.record(
            Account.fact(Account.Deposited, stream, grains=1),
            owner=stream, several=(1, 2), nested={"a": [None, 1.5, "x", True]},
        )  # fmt: skip

    answers = []
    for _ in range(2):
        with keyed("k"):
            answers.append(log.execute("tell", decide))
    assert answers[0] == answers[1]
    assert json.loads(json.dumps(answers[0].answer()))["several"] == [1, 2]


def test_the_same_key_with_another_body_is_refused(database_url: str, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    with keyed("k"):
        ledger.withdraw(account_id=stream, grains=2)
    with keyed("k", OTHER_BODY), pytest.raises(IdempotencyKeyReused):
        ledger.withdraw(account_id=stream, grains=1)
    assert names(database_url) == ["Opened", "Deposited", "Withdrawn"]


def test_the_same_key_of_another_principal_or_method_is_another_key(database_url: str, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    for actor in ("ann", "bob"):
        with keyed("k", actor=actor):
            ledger.withdraw(account_id=stream, grains=1)
        with keyed("k", OTHER_BODY, actor=actor):
            ledger.deposit(account_id=stream, grains=1)
    assert names(database_url).count("Withdrawn") == 2
    assert names(database_url).count("Deposited") == 3


def test_a_refused_command_leaves_its_key_free(database_url: str, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    with keyed("k"), pytest.raises(Overdrawn):
        ledger.withdraw(account_id=stream, grains=6)
    with keyed("k", OTHER_BODY):
        ledger.withdraw(account_id=stream, grains=5)
    assert names(database_url)[-1] == "Withdrawn"


def test_a_key_that_was_never_given_is_looked_up_in_vain(ledger: Ledger) -> None:
    with keyed("k") as scope:
        assert ledger.log._recorder.answer_of(scope, "Ledger.withdraw") is None


def test_a_command_that_decides_nothing_keeps_its_key_too(ledger: Ledger) -> None:
    stream = opened(ledger)

    def look() -> Receipt:
        return ledger.log.record(ledger.log.load(Account, stream), seen=True)

    with keyed("k"):
        first = ledger.log.execute("look", look)
    opened(ledger)
    with keyed("k"):
        assert ledger.log.execute("look", look) == first


@pytest.mark.parametrize("grains", [1, 3, 5], ids=["room for all", "room for one", "all there is"])
def test_one_command_sent_by_many_threads_is_recorded_once_and_answers_all_of_them(
    database_url: str, ledger: Ledger, elsewhere: Ledger, grains: int
) -> None:
    stream = opened(ledger, balance=5)
    answers: list[Receipt] = []

    def send(index: int) -> None:
        with keyed("k"):
            answers.append((ledger if index % 2 else elsewhere).withdraw(account_id=stream, grains=grains))

    assert in_threads(16, send) == []
    assert len(answers) == 16
    assert all(answer == answers[0] for answer in answers)
    assert names(database_url).count("Withdrawn") == 1


def test_different_bodies_racing_for_one_key_are_recorded_once_and_the_others_refused(
    database_url: str, ledger: Ledger, elsewhere: Ledger
) -> None:
    stream = opened(ledger, balance=100)

    def send(index: int) -> None:
        with keyed("k", bytes([index]) * 32):
            (ledger if index % 2 else elsewhere).withdraw(account_id=stream, grains=1)

    raised = in_threads(12, send)
    assert [type(error) for error in raised] == [IdempotencyKeyReused] * 11
    assert names(database_url).count("Withdrawn") == 1


def send_all(url: str, stream: str, keys: int, answers: Any) -> None:
    """A process of its own: every key, by several threads."""
    log = open_event_log(url)
    ledger = Ledger(log)

    def send(_: int) -> None:
        for number in range(keys):
            with keyed(f"k{number}"):
                receipt = ledger.withdraw(account_id=UUID(stream), grains=1)
            answers.put((number, receipt.position, receipt.extra["left"]))

    raised = in_threads(4, send)
    log.close()
    answers.put(("raised", [repr(error) for error in raised], None))


def test_the_same_commands_sent_by_two_processes_are_recorded_once_each(database_url: str, ledger: Ledger) -> None:
    keys = 20
    stream = opened(ledger, balance=keys)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=send_all, args=(database_url, str(stream), keys, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    told = [answers.get(timeout=60) for _ in range(2 * (4 * keys + 1))]
    for process in processes:
        process.join(30)
    assert [raised for kind, raised, _ in told if kind == "raised"] == [[], []]
    by_key: dict[int, set[tuple[int, int]]] = {}
    for key, position, left in told:
        if key != "raised":
            by_key.setdefault(key, set()).add((position, left))
    assert all(len(answers) == 1 for answers in by_key.values())
    assert len(by_key) == keys
    assert ledger.log.load(Account, stream).balance == 0
    assert_sound(records(database_url))


def test_the_key_of_a_unit_inside_a_command_is_the_commands(database_url: str, ledger: Ledger) -> None:
    first, second = opened(ledger, balance=5), opened(ledger)

    def move() -> Receipt:
        return ledger.log.transact(
            lambda: (
                ledger.withdraw(account_id=first, grains=5),
                ledger.deposit_to_open(account_id=second, grains=5),
            )
        )

    answers = []
    for _ in range(2):
        with asked(idempotency_key="k", body_hash=BODY):
            answers.append(ledger.log.execute("move", move))
    assert answers[0] == answers[1]
    assert ledger.log.load(Account, second).balance == 5
    assert len(records(database_url)) == 5


def test_a_key_may_be_any_text(ledger: Ledger) -> None:
    for key in ["", "é" * 100, "'; drop table log.commands; --", str(uuid4())]:
        stream = opened(ledger, balance=1)
        for _ in range(2):
            with keyed(key, BODY, actor=f"a{stream}"):
                assert ledger.withdraw(account_id=stream, grains=1).answer()["left"] == 0
