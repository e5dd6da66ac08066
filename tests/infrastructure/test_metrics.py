"""What a process counts, as Prometheus finds and reads it."""

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from cli.compose import WORKERS
from cli.processes import metrics_port
from infrastructure.event_store import open_event_log
from infrastructure.metrics import flushed, served
from infrastructure.settings import Settings
from tests.ledger import Ledger
from tests.running import in_threads, opened


def _samples(url: str) -> dict[str, float]:
    text = httpx2.get(url, trust_env=False, timeout=30).text
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def test_flushes_are_counted_by_size_and_by_how_long_they_waited_for_the_lock(
    database_url: str, tmp_path: Path
) -> None:
    log = open_event_log(database_url, on_flush=flushed)
    with served(tmp_path, "test") as url:
        before = _samples(url)
        assert in_threads(8, lambda _: opened(Ledger(log))) == []
        log.close()  # after the last flush was told of
        after = _samples(url)
    assert after["village_log_flush_commands_sum"] - before["village_log_flush_commands_sum"] == 8
    flushes = after["village_log_flush_commands_count"] - before["village_log_flush_commands_count"]
    assert 1 <= flushes <= 8
    assert after["village_log_lock_wait_seconds_count"] - before["village_log_lock_wait_seconds_count"] == flushes
    assert after["village_log_lock_wait_seconds_sum"] > before["village_log_lock_wait_seconds_sum"]
    assert after["process_resident_memory_bytes"] > 1e6


def test_who_finds_its_port_taken_takes_a_free_one(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as held:
        taken = held.getsockname()[1]
        with served(tmp_path, "projector", taken) as url:
            assert urlsplit(url).port != taken
            assert _samples(url)["process_resident_memory_bytes"] > 1e6


def test_a_port_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    for _ in range(10):  # somebody else may be quicker
        with closing(socket.create_server(("127.0.0.1", 0))) as held:
            wanted = held.getsockname()[1]
        with served(tmp_path, "projector", wanted) as url:
            if urlsplit(url).port == wanted:
                return
    raise AssertionError("ten free ports were taken")


def test_every_worker_has_a_port_of_its_own_next_to_the_projector_s(tmp_path: Path) -> None:
    fixed, free = Settings(home=tmp_path, metrics_port=9_101), Settings(home=tmp_path)
    assert [metrics_port(fixed, name) for name in ("projector", "saga-runner", "aggregator", "clock")] == [
        9_101, 9_102, 9_103, 9_104,
    ]  # fmt: skip
    assert {metrics_port(free, name) for name in WORKERS} == {0}


def test_a_process_is_announced_for_as_long_as_it_lives_and_the_dead_are_forgotten(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(60)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / f"clock-{dead.pid}.json").write_text("[]")
    with served(tmp_path, "saga-runner") as url:
        (file,) = (tmp_path / "metrics").iterdir()
        assert file.name == f"saga-runner-{os.getpid()}.json"
        (group,) = json.loads(file.read_text())
        assert group["labels"] == {"process": "saga-runner"}
        assert url == f"http://{group['targets'][0]}/metrics"
        assert file.stat().st_mode & 0o077 == 0
    assert list((tmp_path / "metrics").iterdir()) == []
