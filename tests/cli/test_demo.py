"""The demo in its short form: a whole village in processes of its own, from the outside."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.cli.villages import ROOT, all_gone

SHORT = ["--devices", "6", "--rounds", "3", "--processes", "2"]
BRIEF = ["--devices", "4", "--rounds", "1", "--training-only", "--processes", "1"]
TIMEOUT_S = 240

pytestmark = pytest.mark.slow


@contextmanager
def demo(*words: str) -> "Iterator[subprocess.Popen[str]]":
    """`village demo`, ended at last however the test ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", "demo", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Kept:
    """A demo that stays up after it has told its summary."""

    process: "subprocess.Popen[str]"
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def kept(short_home: Path) -> Iterator[Kept]:
    with demo(*SHORT, "--json", "--keep", "--accuracy", "0.3", "--home", str(short_home / "demo")) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=TIMEOUT_S)
        yield Kept(process, json.loads(line))


def test_a_short_demo_trains_pays_and_checks_itself(kept: Kept) -> None:
    found = kept.summary
    assert found["ok"] is True
    assert [check["name"] for check in found["checks"] if not check["ok"]] == []
    assert len(found["checks"]) == 7
    assert found["rounds"] == 3
    assert len(found["devices"]) == 6
    assert all(float(device["paid_tokens"]) > 0 and device["rounds_paid"] == 3 for device in found["devices"])
    assert {lent["device"]: lent["paused"] for lent in found["harvest"]} == {
        "healthy": None,
        "unplugged": "not charging (power)",
        "heating up": "battery observed 57, the limit is 55 (too hot)",
    }
    assert all(Decimal(lent["paid_tokens"]) > 0 for lent in found["harvest"])
    *together, broken = found["market"]
    assert len(together) == 2
    for whole in together:
        assert Decimal(whole["credit_tokens"]) == 0 < Decimal(whole["fee_tokens"]) < Decimal(whole["provider_tokens"])
    assert Decimal(broken["credit_tokens"]) > 0 == Decimal(broken["charged_tokens"])
    assert all(
        Decimal(one["charged_tokens"]) + Decimal(one["released_tokens"]) == Decimal(one["price_tokens"])
        for one in found["market"]
    )


def test_a_kept_demo_serves_its_page_to_the_login_link_and_leaves_nothing_running_when_stopped(kept: Kept) -> None:
    link = kept.summary["login_url"]
    with httpx2.Client(follow_redirects=True, trust_env=False, timeout=60) as browser:
        page = browser.get(link)
        assert page.status_code == 200
        assert "<html" in page.text
        assert browser.get(link).status_code != 200
    family = psutil.Process(kept.process.pid).children(recursive=True)
    assert len(family) >= 9
    kept.process.send_signal(signal.SIGINT)
    assert kept.process.wait(40) == 0
    assert all_gone(family, 10)


def test_a_demo_that_misses_its_accuracy_says_so_with_exit_code_1(short_home: Path) -> None:
    with demo(*BRIEF, "--accuracy", "0.999", "--home", str(short_home / "missed")) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "FAILED" in out
    assert "Not all of it held" in out
    assert re.search(r"round +1 +accuracy", out)
    assert "Harvest" not in out
    assert "logs are in" in err
