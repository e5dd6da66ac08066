"""Processes that say on the bus that they run, and how all of them are found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infrastructure.discovery import registered, services
from infrastructure.embedded.nats import EmbeddedNats
from tests.cli.villages import eventually


def found(url: str, name: str) -> list[str]:
    return [each.id for each in services(url) if each.service == name]


def test_a_process_is_found_with_where_it_runs_for_as_long_as_it_runs(nats_url: str) -> None:
    with registered(nats_url, "tester", "1.2.3", "http://127.0.0.1:1"):
        assert eventually(lambda: len(found(nats_url, "tester")) == 1)
        (one,) = [each for each in services(nats_url) if each.service == "tester"]
        assert (one.version, one.pid, one.url) == ("1.2.3", os.getpid(), "http://127.0.0.1:1")
    assert eventually(lambda: found(nats_url, "tester") == [])


def test_every_process_of_the_same_name_is_found(nats_url: str) -> None:
    with registered(nats_url, "twin", "1.0.0"), registered(nats_url, "twin", "1.0.0"):
        assert eventually(lambda: len(set(found(nats_url, "twin"))) == 2)


def test_a_process_is_found_again_after_its_bus_was_restarted(short_home: Path) -> None:
    home = short_home / "discovery"
    server = EmbeddedNats(home)
    server.start()
    try:
        with registered(server.url, "stayer", "1.0.0"):
            assert eventually(lambda: len(found(server.url, "stayer")) == 1)
            server.stop()
            server.start()
            assert eventually(lambda: len(found(server.url, "stayer")) == 1)
    finally:
        server.stop()


def test_a_bus_that_does_not_answer_holds_no_process_up_and_is_told_to_who_asks() -> None:
    nowhere = "nats://secret:word@127.0.0.1:1"
    with registered(nowhere, "lonely", "1.0.0"):
        pass
    with pytest.raises(ConnectionError) as refusal:
        services(nowhere)
    assert "secret" not in str(refusal.value)


def test_without_a_collector_no_process_loads_what_sends_traces() -> None:
    modules = "sys, cli.processes, workers.projector, workers.saga_runner, api.app"
    code = f"import {modules}; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
