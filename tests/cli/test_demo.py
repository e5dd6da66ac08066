"""The demo in its short form: a whole village in processes of its own, from the outside."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--devices", "6", "--rounds", "3", "--processes", "2"]
BRIEF = ["--rounds", "1", "--training-only", "--processes", "1"]
TIMEOUT_S = 240

pytestmark = pytest.mark.slow


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "demo", *SHORT, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def demo(*words: str) -> tuple[int, str, str]:
    with start(*words) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out, err


def summary(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_short_demo_trains_pays_and_checks_itself(short_home: Path) -> None:
    code, out, err = demo("--json", "--accuracy", "0.3", "--home", str(short_home / "demo"))
    assert code == 0, err
    found = summary(out)
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
    for kept in together:
        assert Decimal(kept["credit_tokens"]) == 0 < Decimal(kept["fee_tokens"]) < Decimal(kept["provider_tokens"])
    assert Decimal(broken["credit_tokens"]) > 0 == Decimal(broken["charged_tokens"])
    assert all(
        Decimal(one["charged_tokens"]) + Decimal(one["released_tokens"]) == Decimal(one["price_tokens"])
        for one in found["market"]
    )


def test_a_demo_that_misses_its_accuracy_says_so_with_exit_code_1(short_home: Path) -> None:
    code, out, err = demo(*BRIEF, "--accuracy", "0.999", "--home", str(short_home / "missed"))
    assert code == 1
    assert "FAILED" in out
    assert "Not all of it held" in out
    assert re.search(r"round +1 +accuracy", out)
    assert "Harvest" not in out
    assert "logs are in" in err


def test_a_kept_demo_serves_its_page_to_the_login_link_and_leaves_nothing_running_when_stopped(
    short_home: Path,
) -> None:
    process = start(*BRIEF, "--keep", "--accuracy", "0.1", "--home", str(short_home / "kept"))
    try:
        link = wait_for_link(process)
        with httpx2.Client(follow_redirects=True, trust_env=False, timeout=60) as browser:
            page = browser.get(link)
            assert page.status_code == 200
            assert "<html" in page.text
            assert browser.get(link).status_code != 200
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 9
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        _, left = psutil.wait_procs(family, timeout=10)
        assert left == []
    finally:
        process.kill()
        process.communicate()


def wait_for_link(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ends = time.monotonic() + TIMEOUT_S
    for line in process.stdout:
        if found := re.search(r"http://\S+/login\?code=\S+", line):
            return found.group()
        assert time.monotonic() < ends, "no login link"
    raise AssertionError(f"the demo ended: {process.stderr.read() if process.stderr else ''}")
