"""Servers of somebody else's: started by plain commands, reached over TCP with a password."""

import secrets
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from infrastructure.embedded.place import account_for, make_home, own_dir, write_private
from infrastructure.embedded.process import as_user, small_environment, spawn, stop


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def foreign_postgres(binaries: Path, home: Path) -> Iterator[str]:
    """The url of a database `village` on a server of these binaries, owned by a role that is no superuser."""
    account = account_for(home, None)
    make_home(home, account)
    place, port, password = own_dir(home / "foreign", account), free_port(), secrets.token_hex(8)
    write_private(place / "password", password, account)
    options = ["-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(place / "password"), "--encoding=UTF8"]
    command = [str(binaries / "initdb"), "-D", str(place / "data"), "--locale=C", *options]
    environment = small_environment()
    subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True, **as_user(account))
    server = spawn(
        [binaries / "postgres", "-D", place / "data", "-p", str(port), "-h", "127.0.0.1", "-k", ""],
        cwd=place,
        account=account,
        output=place / "log",
        death_signal=signal.SIGINT,
    )
    try:
        with _admin(port, password) as admin:
            admin.execute(f"CREATE ROLE aivillage LOGIN CREATEROLE PASSWORD '{password}'")
            admin.execute("CREATE DATABASE village OWNER aivillage")
        yield f"postgresql://aivillage:{password}@127.0.0.1:{port}/village"
    finally:
        stop(server, [(signal.SIGINT, 10)])


def _admin(port: int, password: str) -> psycopg.Connection:
    until = time.monotonic() + 30
    while True:
        try:
            url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
            return psycopg.connect(url, autocommit=True, connect_timeout=5)
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


@contextmanager
def foreign_nats(home: Path) -> Iterator[str]:
    """The url of a NATS server with JetStream."""
    home.mkdir(parents=True, exist_ok=True)
    port, password = free_port(), secrets.token_hex(8)
    server = spawn(
        [
            Path(sysconfig.get_path("scripts")) / "nats-server",
            *("-a", "127.0.0.1", "-p", str(port), "-js", "-sd", home / "store", "--user", "me", "--pass", password),
        ],
        cwd=home,
        account=None,
        output=home / "nats.log",
        death_signal=signal.SIGTERM,
    )
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"nats://me:{password}@127.0.0.1:{port}"
    finally:
        stop(server, [(signal.SIGTERM, 5)])
