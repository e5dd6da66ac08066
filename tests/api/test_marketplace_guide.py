"""The marketplace guide is run as it is written: its Python blocks sell, buy, deliver and settle in a village."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from infrastructure.database import Database
from tests.api.office import Office
from tests.api.stall import Stall, url

__all__ = ["url"]

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "marketplace.md"


@pytest.fixture
def stall(database: Database, database_url: str, tmp_path: Path) -> Iterator[Stall]:
    office = Office(database_url, database, tmp_path)
    yield Stall(office)
    office.close()


def token(office: Office, owner: UUID | None = None) -> str:
    role, subject = ("operator", "ada") if owner is None else ("member", str(owner))
    return str(office.tokens.issue(role=role, subject=subject, expires_in=timedelta(hours=1)))


def test_the_python_of_the_guide_sells_buys_delivers_and_settles(stall: Stall, url: str, tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL))
    printed = tmp_path / "printed"
    env = os.environ | {
        "VILLAGE_URL": url,
        "PROVIDER_TOKEN": token(stall.office, stall.provider),
        "CUSTOMER_TOKEN": token(stall.office, stall.customer),
        "OPERATOR_TOKEN": token(stall.office),
        "DEVICE_ID": str(stall.device_id),
    }
    with printed.open("wb") as output:
        reader = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        ends = time.monotonic() + 240
        while reader.poll() is None and time.monotonic() < ends:
            stall.office.settle()
    finally:
        reader.kill()
    assert reader.wait() == 0, printed.read_text()
    why, state, amounts, flagged, changes = printed.read_text().splitlines()
    assert why.startswith("offerings that meet every constraint: 1, that do not: 0")
    assert flagged == "0 pairs of owners are flagged"
    assert changes.split() == [
        "ServiceContractCreated", "Reserved", "Activated", "UsageReported", "Completed", "SlaWindowEvaluated",
        "Settled",
    ]  # fmt: skip
    agreed, credited, charged, fee, earned = map(int, amounts.split())
    assert (state, agreed) == ("active", 1_666_666)
    usage = agreed * 1_000 // 60_000
    assert (credited + charged, fee + earned, fee) == (usage, charged, charged // 50)
    assert credited > 0
