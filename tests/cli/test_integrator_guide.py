"""Every command of the integrator's guide, run as it is written, against a village that is up."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.villages import ROOT, environment, running

GUIDE = ROOT / "docs" / "guides" / "integrator.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of the guide in this language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return found


def lay_out(folder: Path) -> None:
    """The guide's programs under their names, and a `village` and `python` that are this checkout's."""
    for program in blocks("python"):
        name = program.partition("\n")[0].removeprefix("# ")
        (folder / name).write_text(program)
    for name, words in (("village", "-m cli.main"), ("python", "")):
        wrapper = folder / "bin" / name
        wrapper.parent.mkdir(exist_ok=True)
        wrapper.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" {words} "$@"\n')
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)


@pytest.mark.slow
def test_the_guide_does_what_it_says(tmp_path: Path, short_home: Path) -> None:
    home = short_home / "integrator"
    env = environment(home)
    lay_out(tmp_path)
    env["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{env['PATH']}"
    script = "set -eu -o pipefail\n" + "\n".join(blocks("sh"))
    with running(env):
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stdout + done.stderr

    def said(name: str) -> dict[str, object]:
        answer: dict[str, object] = json.loads((tmp_path / name).read_text())
        return answer

    opened, wallet = said("opened.json"), said("wallet.json")
    assert wallet == {"data": {"wallet": {"walletId": opened["id"], "availableGrains": "0"}}}
    assert said("refused.json")["code"] == "insufficient_funds"
    assert str(said("openapi.json")["openapi"]).startswith("3.1")
    for name in ("events.json", "operations.json"):
        assert list(said(name)) == ["data"] or list(said(name)) == ["data", "extensions"], said(name)
    assert said("statement.json") == {"data": {"statement": {"edges": []}, "holds": {"edges": []}}}
    assert (tmp_path / "statement.jsonl").read_text() == ""
    followed = [json.loads(line)["position"] for line in (tmp_path / "followed.jsonl").read_text().splitlines()]
    assert followed == [1, 2]
    assert (tmp_path / "sse.txt").read_text().count('"position"') >= 3
    assert "'presence': 'online'" in (tmp_path / "device.txt").read_text()
    assert said("before.json") == {"data": {"wallet": None}}
    assert isinstance(said("paused.json")["position"], int)
    assert isinstance(said("erased.json")["position"], int)
    assert said("unresolved.json")["code"] == "aggregate_not_found"
    operations = said("operations.json")
    assert "errors" not in operations, operations
    assert "that were signed" in (tmp_path / "proved.txt").read_text()
