"""The page of benchmarks says what the benchmarks wrote, and names every one of them."""

import random

from benchmarks.__main__ import names
from benchmarks.device_query import devices
from benchmarks.report import PAGE, kept, page
from projections.device_registry import Devices


def test_the_page_is_made_from_the_kept_results() -> None:
    assert PAGE.read_text() == page(kept())


def test_every_benchmark_has_a_kept_result() -> None:
    assert sorted(kept()) == names()


def test_a_target_that_is_missed_says_why() -> None:
    missed = [row for found in kept().values() for row in found["rows"] if not row["met"]]
    assert [row["row"] for row in missed if not row["note"]] == []


def test_the_devices_that_are_loaded_fill_every_column() -> None:
    (device,) = devices(1, random.Random(1))
    assert len(device) == len(Devices().columns)
