"""What the demo plays beside its training, without a village: traces of sensors, and the evidence of a breach."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.demo_harvest import LENDERS, SAMPLE_S, Lender
from cli.demo_market import unanswered_ms
from domain.harvest.decide import Watch, step
from domain.harvest.policy import HarvestPolicy
from workers.device_agent.sensors import TraceSensors

START = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize("lender", LENDERS, ids=lambda lender: lender.name)
def test_the_village_s_own_policy_does_with_each_trace_what_the_demo_expects(lender: Lender, tmp_path: Path) -> None:
    lending = lender.lay_out(tmp_path)
    assert lending.sensors is not None
    sensors, watch, found = TraceSensors(tmp_path / lending.sensors), Watch(), list[tuple[str, str]]()
    for sequence in range(1, 61):
        measured = sensors.read()
        assert measured is not None
        sample = measured.sample(sequence, START + timedelta(seconds=sequence * SAMPLE_S))
        watch, transition = step(HarvestPolicy(), watch, sample)
        if transition is not None:
            found.append((transition.to, transition.reading.kind))
    assert found[0][0] == "running"
    pauses = [kind for to, kind in found if to == "paused"]
    assert pauses == ([] if lender.paused_by is None else [lender.paused_by])


def test_a_job_that_was_never_done_is_degraded_time_from_when_it_was_given() -> None:
    def job(state: str, second: int) -> dict[str, str]:
        return {"state": state, "submittedAt": (START + timedelta(seconds=second)).isoformat()}

    until = START + timedelta(seconds=10)
    assert unanswered_ms([job("succeeded", 1)], until) == 0
    assert unanswered_ms([job("succeeded", 1), job("cancelled", 6), job("cancelled", 8)], until) == 4_000
