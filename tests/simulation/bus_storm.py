"""The bus storm: broker, database, relay and consumer are killed at random while facts are recorded.

Afterwards every fact is in the stream once and in its order, and has had its effect once and in its order.
`python -m tests.simulation.bus_storm --events 100000` runs the long form and prints what happened as JSON.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from nats.js.api import AckPolicy, ConsumerConfig

from domain.kernel import EventLog
from domain.kernel.errors import LogOverloaded, LogUnavailable
from infrastructure.bus import Bus
from infrastructure.bus_status import relay_status
from infrastructure.bus_window import BusUnavailable
from infrastructure.database import migrate
from infrastructure.embedded.nats import EmbeddedNats
from infrastructure.embedded.postgres import EmbeddedPostgres
from infrastructure.event_store import open_event_log
from infrastructure.inbox import Puller
from tests.ledger import Ledger
from tests.running import keyed, records
from tests.simulation.bus_part import CONSUMER, STREAM

ROOT = Path(__file__).resolve().parents[2]
ACCOUNTS = 40
WRITERS = 4
STALLED_S = 90.0
"""How long the parts may come no further once nothing is killed any more."""

EFFECTS = """
CREATE TABLE storm_effects (number bigserial PRIMARY KEY, event_id uuid, stream uuid, version bigint, position bigint,
                            deliveries int);
GRANT ALL ON storm_effects, storm_effects_number_seq TO village_writer;
"""


class Part:
    """A process that is started again when it is gone."""

    def __init__(self, role: str, environment: dict[str, str]) -> None:
        self.role = role
        self._environment = environment
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.simulation.bus_part", self.role]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=quiet, stderr=quiet)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def freeze(self) -> subprocess.Popen[bytes]:
        """Stop it in the middle of whatever it does and start another; answers the frozen one."""
        frozen = self.process
        frozen.send_signal(signal.SIGSTOP)
        self.process = self._start()
        return frozen

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Writers:
    """Threads that record facts on shared accounts and repeat by key what may or may not have been recorded."""

    def __init__(self, log: EventLog, events: int, storm_s: float) -> None:
        self._pause_s = WRITERS * storm_s / events
        self._ledger = Ledger(log)
        self._accounts = [uuid4() for _ in range(ACCOUNTS)]
        each = (events - ACCOUNTS) // WRITERS
        self._threads = [threading.Thread(target=self._write, args=[number, each]) for number in range(WRITERS)]
        self.failures: list[BaseException] = []
        self.repeated = 0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _write(self, number: int, count: int) -> None:
        chance, started = random.Random(number), time.monotonic()
        try:
            for index in range(count):
                self._deposit(chance.choice(self._accounts), f"{number}-{index}")
                time.sleep(max(0.0, started + index * self._pause_s - time.monotonic()))
        except BaseException as error:
            self.failures.append(error)

    def _deposit(self, account: UUID, key: str) -> None:
        for _ in range(1_000):
            try:
                with keyed(key):
                    self._ledger.deposit(account_id=account, grains=1)
                return
            except (LogUnavailable, LogOverloaded):
                self.repeated += 1
                time.sleep(0.1)
        raise AssertionError("the log does not come back")


class Storm:
    """One run. Everything that makes processes is called from the main thread, whose end ends them."""

    def __init__(self, home: Path, *, events: int, seed: int, storm_s: float, pause_s: float) -> None:
        self.events = events
        self._storm_s = storm_s
        self.actions: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._pause_s = pause_s
        # A kill does not lose what the system holds for us, so nothing need be on the disk.
        self._postgres = EmbeddedPostgres(home, flags={"fsync": "off"})
        self._nats = EmbeddedNats(home)
        self._home = home

    def run(self) -> dict[str, Any]:
        """Storm, calm, and the proofs. Raises AssertionError when something was lost, doubled or out of order."""
        started = time.monotonic()
        with self._postgres, self._nats:
            migrate(self._postgres.url)
            with psycopg.connect(self._postgres.url, autocommit=True) as owner:
                owner.execute(EFFECTS)
            environment = {
                **os.environ,
                "STORM_DATABASE_URL": self._postgres.url,
                "STORM_NATS_URL": self._nats.url,
                "STORM_HOME": str(self._home),
            }
            log = open_event_log(self._postgres.url)
            parts = [Part("relay", environment), Part("consumer", environment)]
            try:
                writers = Writers(log, self.events, self._storm_s)
                writers.start()
                self._rage(parts, writers)
                assert not writers.failures, writers.failures
                stormed_s = time.monotonic() - started
                head = log.head()
                self._wait_for(head)
            finally:
                log.close()
                for part in parts:
                    part.stop()
            return {
                "events": head, "seconds": round(time.monotonic() - started, 1), "stormed_s": round(stormed_s, 1),
                "repeated_commands": writers.repeated, **self._proved(head), **self.actions,
            }  # fmt: skip

    def _rage(self, parts: list[Part], writers: Writers) -> None:
        """Kill something every now and then, until the writers are done and every kind of thing was hit."""
        relay, consumer = parts
        deeds: dict[str, Callable[[], None]] = {
            "broker_kills": partial(self._kill, self._nats),
            "database_kills": partial(self._kill, self._postgres),
            "relay_kills": relay.kill,
            "relay_freezes": partial(self._freeze, relay),
            "consumer_kills": consumer.kill,
            "consumer_freezes": partial(self._freeze, consumer),
        }
        while writers.busy() or set(self.actions) != set(deeds):
            time.sleep(self._pause_s * self._chance.uniform(0.2, 1.8))
            missing = sorted(set(deeds) - set(self.actions))
            name = self._chance.choice(missing or sorted(deeds))
            deeds[name]()
            self.actions[name] += 1

    def _kill(self, server: EmbeddedNats | EmbeddedPostgres) -> None:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while server.pid is not None:  # reaped
            time.sleep(0.01)
        time.sleep(self._chance.uniform(0, 0.5))
        server.start()

    def _freeze(self, part: Part) -> None:
        """It sleeps while another takes over, wakes up and goes on as if nothing had been, and is killed."""
        frozen = part.freeze()
        time.sleep(self._chance.uniform(1.5, 3.0))
        frozen.send_signal(signal.SIGCONT)
        time.sleep(self._chance.uniform(0.2, 1.0))
        frozen.kill()
        frozen.wait()

    def _wait_for(self, head: int) -> None:
        done, moved_at = -1, time.monotonic()
        while time.monotonic() - moved_at < STALLED_S:
            with psycopg.connect(self._postgres.url) as connection:
                row = connection.execute("SELECT count(DISTINCT position) FROM storm_effects").fetchone()
            assert row is not None
            if row[0] > done:
                done, moved_at = row[0], time.monotonic()
            if done >= head:
                time.sleep(2.0)  # what is delivered twice would come now
                return
            time.sleep(0.5)
        raise AssertionError(f"lost: of {head} facts {done} had their effect")

    def _proved(self, head: int) -> dict[str, Any]:
        facts = {record.position: record for record in records(self._postgres.url)}
        assert sorted(facts) == list(range(1, head + 1))
        with psycopg.connect(self._postgres.url) as connection:
            effects = connection.execute(
                "SELECT event_id, stream, version, position, deliveries FROM storm_effects ORDER BY number"
            ).fetchall()
            letters = connection.execute("SELECT * FROM engine.bus_dead_letters").fetchall()
            status = relay_status(connection)
        assert len(effects) == head, f"{len(effects)} effects of {head} facts"
        assert {effect[0] for effect in effects} == {fact.event_id for fact in facts.values()}
        newest: dict[UUID, int] = {}
        for _, stream, version, _, _ in effects:
            assert version == newest.get(stream, 0) + 1, f"stream {stream}: {version} after {newest.get(stream, 0)}"
            newest[stream] = version
        in_stream = self._in_stream()
        assert [position for position, _ in in_stream] == list(range(1, head + 1))
        assert all(facts[position].event_id == event_id for position, event_id in in_stream)
        assert not letters, letters
        assert status is not None
        return {
            "redelivered_before_effect": sum(effect[4] > 1 for effect in effects),
            "relay_failures": status.failures,
            "relay_reconciled": status.reconciled,
        }

    def _in_stream(self) -> list[tuple[int, UUID]]:
        found: list[tuple[int, UUID]] = []
        config = ConsumerConfig(durable_name="proof", ack_policy=AckPolicy.NONE)
        with Bus(self._nats.url, STREAM) as bus:
            puller = Puller(bus, STREAM, config)
            try:
                while messages := puller.pull(500, 2.0):
                    for message in messages:
                        headers = message.headers or {}
                        found.append((int(headers["ce-position"]), UUID(headers["ce-id"])))
            except BusUnavailable as error:
                raise AssertionError("the broker did not come back") from error
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--storm", type=float, default=360.0, help="seconds in which the facts are recorded, at least")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two kills, on average")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="village-storm-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        storm = Storm(
            Path(folder) / "home", events=given.events, seed=given.seed, storm_s=given.storm, pause_s=given.pause
        )
        print(json.dumps({"consumer": CONSUMER, **storm.run()}))


if __name__ == "__main__":
    main()
