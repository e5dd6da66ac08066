"""The short form of the bus storm; `make storm` runs the long one."""

import shutil
from pathlib import Path

import pytest

from tests.simulation.bus_storm import Storm


@pytest.mark.slow
def test_through_kills_of_broker_database_relay_and_consumer_every_fact_has_its_effect_once_in_order(
    short_home: Path,
) -> None:
    home = short_home / "storm"
    report = Storm(home, events=2_000, seed=7, storm_s=15.0, pause_s=0.8).run()
    shutil.rmtree(home, ignore_errors=True)
    assert report["events"] > 1_900
    assert all(report[f"{part}_kills"] for part in ("broker", "database", "relay", "consumer"))
