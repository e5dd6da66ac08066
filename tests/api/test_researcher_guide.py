"""The researcher's guide is run as it is written: its Python blocks train a model in a village of the test."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from domain.federated_learning.manifest import mlp_manifest
from tests.training import arrays

from .training_site import Site, site

__all__ = ["site"]

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "researcher.md"
MANIFEST = mlp_manifest([784, 200, 200, 10])


def test_the_python_of_the_guide_starts_follows_and_fetches(site: Site, tmp_path: Path) -> None:
    devices, printed = site.devices(3), tmp_path / "printed"
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL))
    token = site.headers(uuid4())["Authorization"].removeprefix("Bearer ")
    env = os.environ | {"VILLAGE_URL": site.url, "VILLAGE_TOKEN": token, "PYTHONPATH": str(ROOT)}
    with printed.open("wb") as output:
        reader = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            if reader.poll() is not None:
                break
            answer_all(site, devices)
    finally:
        reader.kill()
    assert reader.wait() == 0, printed.read_text()
    lines = printed.read_text().splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [["1", "completed", "3"], ["2", "completed", "3"]]
    assert "'0.weight': (200, 784)" in lines[2]
    assert lines[3] == "[{'node': {'remainingMicro': 2500000, 'state': 'open'}}]"


def answer_all(site: Site, devices: list[Any]) -> None:
    """Every device does the round it has, if it has one."""
    site.settle()
    for index, device in enumerate(devices):
        work = site.assignment(device, 100 if index == 0 else 0)
        if work is not None and not work["submitted"]:
            update = arrays(MANIFEST, seed=index, scale=0.001)
            answer = site.submit(device, site.update(device, work["round_id"], update=update))
            assert answer.status_code == 200, answer.text
