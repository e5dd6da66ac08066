"""Asked to stop under load, a process finishes what it has begun, loses nothing and hands over what it holds."""

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest

from api.edge.principals import Tokens
from cli.compose import WORKERS
from domain.kernel import new_scope, within
from domain.tokenomics.service import TokenomicsService
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from infrastructure.keys import load_keys
from projections.catalogue import READ_MODELS
from projections.slots import Lease
from tests.cli.villages import environment, eventually
from tests.commands import Command
from tests.running import assert_sound, join, records

pytestmark = pytest.mark.slow

STOP_S = 30
CLIENTS = 8
ENOUGH = 40
_LEASES = "SELECT count(*) FROM engine.cursors WHERE leased_until > clock_timestamp()"
_WORKERS = "SELECT count(*) FROM engine.workers"


@contextmanager
def process(*words: str, env: Mapping[str, str]) -> Iterator[Command]:
    """`village WORDS`, ended at last however the test ends."""
    running = Command(*words, env=env)
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture
def env(database_url: str, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, database_url=database_url)


class Clients:
    """Threads that open wallets at an API, one after the other, until it refuses or hangs up."""

    def __init__(self, url: str, token: str) -> None:
        self.acknowledged: dict[UUID, int] = {}
        self.refused: list[str] = []
        self._url, self._token = url, token
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        join(self._threads, STOP_S)

    def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        with httpx2.Client(base_url=self._url, headers=headers, timeout=STOP_S, trust_env=False) as client:
            while True:
                owner_id = uuid4()
                try:
                    answer = client.post(
                        "/v1/tokenomics/open_wallet",
                        json={"owner_id": str(owner_id)},
                        headers={"Idempotency-Key": str(owner_id)},
                    )
                except httpx2.TimeoutException:
                    self.refused.append("a caller hangs")
                    return
                except httpx2.TransportError:
                    return
                if answer.status_code != 200:
                    self.refused.append(answer.text)
                    return
                self.acknowledged[owner_id] = answer.json()["position"]


def test_an_api_asked_to_stop_under_load_keeps_every_command_it_acknowledged(
    env: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    with process("api", env=env) as api:
        assert eventually((tmp_path / "api.url").exists, 60)
        url = (tmp_path / "api.url").read_text().strip()
        token = Tokens(load_keys(tmp_path)).issue(role="operator", subject="test", expires_in=timedelta(hours=1))
        assert eventually(lambda: _announced(tmp_path) == {api.pid}, 60)
        clients = Clients(url, token)
        assert eventually(lambda: len(clients.acknowledged) > ENOUGH, 60)
        api.send(signal.SIGTERM)
        assert api.wait(STOP_S) == 0
        clients.join()
    found = records(database_url)
    assert_sound(found)
    opened = {record.position: record for record in found if record.topic == "tokenomics.Wallet.Opened"}
    assert {opened[position].fact().event.owner_id: position for position in clients.acknowledged.values()} == (
        clients.acknowledged
    )
    assert all('"log_closed"' in text for text in clients.refused)


class Writer:
    """Opens wallets in a thread, so that workers have something to do, until it is told to stop."""

    def __init__(self, database_url: str) -> None:
        self.count = 0
        self._log = open_event_log(database_url)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with within(new_scope("test")):
                TokenomicsService(self._log).open_wallet(owner_id=uuid4())
            self.count += 1

    def close(self) -> None:
        self._stopping.set()
        join([self._thread])
        self._log.close()


def test_workers_asked_to_stop_under_load_end_well_and_others_take_over_at_once(
    env: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    with closing(Writer(database_url)) as writer, psycopg.connect(database_url, autocommit=True) as connection:
        with ExitStack() as ends:
            workers = [ends.enter_context(process("worker", name, env=env)) for name in WORKERS]
            assert eventually(lambda: _announced(tmp_path) == {worker.pid for worker in workers}, 90)
            assert eventually(lambda: connection.execute(_LEASES).fetchone() != (0,))
            begun = writer.count
            assert eventually(lambda: writer.count > begun + ENOUGH)
            for worker in workers:
                worker.send(signal.SIGTERM)
            assert [worker.wait(STOP_S) for worker in workers] == [0] * len(WORKERS)
        assert _announced(tmp_path) == set()
        assert connection.execute(_LEASES).fetchone() == (0,)
        assert connection.execute(_WORKERS).fetchone() == (0,)
        with Database(database_url) as database, closing(database.connect(Role.PROJECTOR)) as successor:
            slots = Lease("successor", READ_MODELS).slots(successor)
        assert {slot.model.name for slot in slots} == {model.name for model in READ_MODELS}
        assert max(slot.position for slot in slots) > 0
    assert_sound(records(database_url))


def _announced(home: Path) -> set[int]:
    """The processes whose metrics Prometheus would find."""
    found = set()
    for file in (home / "metrics").glob("*.json") if (home / "metrics").is_dir() else ():
        (group,) = json.loads(file.read_text())
        assert httpx2.get(f"http://{group['targets'][0]}/metrics", trust_env=False, timeout=30).status_code == 200
        found.add(int(file.stem.rpartition("-")[2]))
    return found
