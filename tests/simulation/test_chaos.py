"""The short form of the chaos; `make chaos` runs the long one."""

import shutil
from pathlib import Path

import pytest

from tests.simulation.chaos import PROCESSES, SERVERS, Chaos


@pytest.mark.slow
def test_a_village_under_load_loses_and_doubles_nothing_while_its_parts_are_killed_frozen_and_restarted(
    short_home: Path,
) -> None:
    home = short_home / "chaos"
    report = Chaos(home, seconds=0.0, seed=20_261_124, pause_s=0.5, rounds=4, passes=1).run()
    shutil.rmtree(home, ignore_errors=True)
    deeds = {f"kill {words}" for words in (*PROCESSES, *SERVERS)} | {f"freeze {words}" for words in PROCESSES}
    assert all(report[deed] for deed in deeds | {f"restart {words}" for words in SERVERS})
    assert report["acknowledged_commands"] > 20
