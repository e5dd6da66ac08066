"""Processes that share the folding of read models on a real Postgres: killed, frozen, replaced."""

import os
import signal
import subprocess
import sys

from projections.monitoring import Controls
from tests.balances import Balances
from tests.running import in_background
from workers.projector import Projector

from .operated import Parted, Village, until, village

__all__ = ["village"]


def test_partitions_folded_by_two_projectors_add_up_to_the_whole(village: Village) -> None:
    village.models = [Controls(), Parted()]
    projectors = [Projector(village.database, village.models, batch_size=10) for _ in range(2)]
    with in_background(*(projector.run for projector in projectors)):
        accounts = [village.open(f"owner {number}", 1) for number in range(20)]
        until(lambda: len({owner for (owner,) in village.query("SELECT owner FROM engine.cursors")} - {None}) == 2)
        for account in accounts:
            village.deposit(account, 1)
        head = village.log.head()
        until(lambda: village.query("SELECT min(position) FROM engine.cursors") == [(head,)])

    assert village.balances() == {f"owner {number}": 2 for number in range(20)}
    assert village.differences() == []


PROJECTOR_PROCESS = """
import sys, threading
from infrastructure.database import Database
from tests.balances import Balances
from projections.monitoring import Controls
from workers.projector import Projector
Projector(Database(sys.argv[1]), [Controls(), Balances()], batch_size=10).run(threading.Event())
"""


def _projector_process(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROJECTOR_PROCESS, url])


def test_another_process_takes_over_within_ten_seconds_of_a_kill(village: Village) -> None:
    village.models = [Controls(), Balances()]
    first = _projector_process(village.url)
    second: subprocess.Popen[bytes] | None = None
    try:
        account = village.open("Ada", 1)
        until(lambda: village.balances() == {"Ada": 1})
        second = _projector_process(village.url)
        # A process that has not come up yet could not take over, however good the lease is.
        until(lambda: village.query("SELECT count(*) FROM engine.workers") == [(2,)], timeout_s=60)
        os.kill(first.pid, signal.SIGKILL)
        village.deposit(account, 1)
        until(lambda: village.balances() == {"Ada": 2}, timeout_s=10)
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.wait(10)


def test_a_frozen_process_that_wakes_up_late_does_no_harm(village: Village) -> None:
    village.models = [Controls(), Balances()]
    frozen = _projector_process(village.url)
    other: subprocess.Popen[bytes] | None = None
    try:
        account = village.open("Ada", 1)
        until(lambda: village.balances() == {"Ada": 1})
        os.kill(frozen.pid, signal.SIGSTOP)
        other = _projector_process(village.url)
        village.deposit(account, *[1] * 30)
        until(lambda: village.balances() == {"Ada": 31})
        ((woken_at,),) = village.query("SELECT clock_timestamp()::text")
        os.kill(frozen.pid, signal.SIGCONT)
        village.deposit(account, *[1] * 30)
        until(lambda: village.balances() == {"Ada": 61})
        seen = f"SELECT count(*) FROM engine.workers WHERE seen_at > '{woken_at}'"
        until(lambda: village.query(seen) == [(2,)])  # the woken process has gone on from where it was
        assert village.balances() == {"Ada": 61}
        assert village.differences() == []
    finally:
        for process in filter(None, (frozen, other)):
            process.kill()
            process.wait(10)
