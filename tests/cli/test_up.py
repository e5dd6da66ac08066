"""`village up` with real processes: ready, watched, restarted, and gone without a trace."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from infrastructure.bus import Bus
from infrastructure.bus_window import BusUnavailable
from infrastructure.embedded.postgres import packaged_binaries
from tests.bus import positions, stored
from tests.cli.villages import Running, all_gone, environment, eventually, running
from tests.commands import village
from tests.infrastructure.foreign import foreign_nats, foreign_postgres
from tests.needs import POSTGRES_15

pytestmark = pytest.mark.slow

PROCESSES = ["main api", "worker projector", "worker saga-runner", "worker aggregator", "worker clock"]
PARTS = ["postgres", "nats-server", *PROCESSES]


@pytest.fixture(scope="module")
def module_home(short_home: Path) -> Iterator[Path]:
    yield short_home / "up"
    shutil.rmtree(short_home / "up", ignore_errors=True)


@pytest.fixture(scope="module")
def shared(module_home: Path) -> Iterator[Running]:
    """A village for tests that leave it as it was."""
    with running(environment(module_home)) as up:
        yield up


def test_it_is_ready_with_every_part_running(shared: Running) -> None:
    assert shared.ready()
    assert eventually(lambda: all(shared.pid_of(part) for part in PARTS))


def test_its_home_is_closed_to_others_and_its_secrets_to_all_but_the_owner(shared: Running, module_home: Path) -> None:
    assert module_home.stat().st_mode & 0o007 == 0
    for path in module_home.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert (module_home / "api.url").read_text().strip() == shared.url


def test_the_login_link_works_once(shared: Running) -> None:
    with httpx2.Client(trust_env=False, timeout=60) as client:
        first = client.get(shared.login_url)
        assert first.status_code == 303
        assert "HttpOnly" in first.headers["set-cookie"]
        assert client.get(shared.login_url).status_code in {401, 403, 410}


def test_no_process_shows_a_password_on_its_command_line(shared: Running) -> None:
    for process in shared.tree():
        assert "nats://" not in " ".join(process.cmdline())


@pytest.mark.parametrize("part", PROCESSES)
def test_a_killed_process_is_started_again(shared: Running, part: str) -> None:
    shared.kill(part)
    assert eventually(shared.ready)


@pytest.mark.parametrize("server", ["postgres", "nats-server"])
def test_a_killed_server_is_started_again_and_the_village_recovers(shared: Running, server: str) -> None:
    shared.kill(server)
    assert eventually(shared.ready)


@pytest.mark.parametrize("server", ["postgres", "nats-server"])
def test_a_server_that_is_stopped_while_it_starts_again_is_started_once_more(shared: Running, server: str) -> None:
    shared.kill(server)
    shared.kill(server, signal.SIGINT)
    assert eventually(shared.ready)


def test_a_second_village_in_the_same_home_is_refused_in_one_line(shared: Running, module_home: Path) -> None:
    done = village("up", "--json", env=environment(module_home))
    assert done.returncode == 1
    assert "Another village is running" in done.stderr
    assert "Traceback" not in done.stderr
    assert shared.ready()


def test_the_facts_are_on_the_bus_through_the_death_of_the_relay_and_the_broker(
    shared: Running, module_home: Path
) -> None:
    address = module_home / "nats.url"
    assert address.stat().st_mode & 0o777 == 0o600
    with Bus(address.read_text().strip(), "ai_village_events") as bus:
        assert eventually(lambda: "log.tokenomics.Issuance.Opened" in {found.subject for found in stored(bus)})
        shared.kill("worker clock")
        shared.kill("nats-server")
        issued = village("token", "issue", "--role", "operator", "--subject", "ada", env=environment(module_home))
        answer = httpx2.post(
            f"{shared.url}/v1/tokenomics/open_wallet",
            json={"owner_id": "6f3c1a52-5d0e-5d4a-8c57-2f0f6a1b9e77"},
            headers={"Authorization": f"Bearer {issued.stdout.strip()}", "Idempotency-Key": "bus"},
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        recorded = answer.json()["position"]
        assert eventually(lambda: is_on(bus, recorded), 60)
        found = positions(stored(bus))
        assert found == list(range(1, len(found) + 1))


def is_on(bus: Bus, position: int) -> bool:
    """Whether a fact is on the bus; not while the broker is down."""
    try:
        return (bus.tail().position or 0) >= position
    except BusUnavailable:
        return False


def asked_to_stop_it_leaves_no_process_within_ten_seconds(up: Running, home: Path, number: signal.Signals) -> None:
    assert eventually(lambda: len([*(home / "metrics").glob("*.json")]) == len(PROCESSES)), "all of it has started"
    tree = up.tree()
    up.process.send_signal(number)
    assert up.process.wait(10) == 0
    assert all_gone(tree, 10)
    assert not [name for name in ("api.url", "nats.url") if (home / name).exists()]


def test_two_villages_on_one_machine_do_not_collide(shared: Running, short_home: Path) -> None:
    home = short_home / "other"
    with running(environment(home)) as other:
        assert other.url != shared.url
        assert other.ready()
        assert shared.ready()
        asked_to_stop_it_leaves_no_process_within_ten_seconds(other, home, signal.SIGTERM)
        assert shared.ready()
    shutil.rmtree(home, ignore_errors=True)


def test_when_the_supervisor_is_killed_everything_ends_and_the_next_start_is_whole(short_home: Path) -> None:
    home = short_home / "stopped"
    with running(environment(home)) as up:
        tree = up.tree()
        up.process.kill()
        assert all_gone(tree, 20)
    with running(environment(home)) as up:
        assert up.ready()
        asked_to_stop_it_leaves_no_process_within_ten_seconds(up, home, signal.SIGINT)
    shutil.rmtree(home, ignore_errors=True)


def test_it_uses_the_servers_it_is_given_and_starts_none(short_home: Path) -> None:
    home, binaries = short_home / "given", POSTGRES_15 if POSTGRES_15.exists() else packaged_binaries()
    with foreign_postgres(binaries, home / "pg") as database_url, foreign_nats(home / "nats") as nats_url:
        env = environment(home / "village", database_url=database_url, nats_url=nats_url)
        with running(env) as up:
            assert up.ready()
            assert not [process for process in up.tree() if process.name() in {"postgres", "nats-server"}]
    shutil.rmtree(home)


def test_a_database_that_does_not_answer_is_told_in_one_line(short_home: Path) -> None:
    env = environment(
        short_home / "lost", database_url="postgresql://127.0.0.1:1/nothing", nats_url="nats://127.0.0.1:1"
    )
    done = village("up", "--json", env=env)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_without_a_village_says_what_to_do(short_home: Path) -> None:
    done = village("worker", "projector", env=environment(short_home / "none"))
    assert done.returncode == 1
    assert "village up" in done.stderr
    assert subprocess.list2cmdline(["Traceback"]) not in done.stderr
