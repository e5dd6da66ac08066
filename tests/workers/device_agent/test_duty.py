"""A device that is warm works a part of its time, and one that pauses works at nothing, whatever it has begun."""

import asyncio
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import psutil
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from workers.device_agent.assignment import Assignment, Policy
from workers.device_agent.client import RetryPolicy, VillageClient, open_http
from workers.device_agent.duty import PERIOD_S, Brake, on_duty
from workers.device_agent.participation import Participation
from workers.device_agent.state import DeviceState, Stage
from workers.models import initial_weights, save_weights

from .test_harvest import FINE
from .test_resting import Dial, device, job_is, until
from .test_training import CLIP, PLAN, SMALL, small_data
from .village import Answer, Seen, village

WARM = msgspec.structs.replace(FINE, battery_temp=50.0)


@given(st.integers(0, 10_000), st.floats(0, 1e6))
def test_it_works_its_share_of_every_period(duty_bp: int, start_s: float) -> None:
    steps = 1_000
    worked = sum(on_duty(duty_bp / 10_000, start_s + PERIOD_S * step / steps) for step in range(steps))
    assert abs(worked / steps - duty_bp / 10_000) <= 2 / steps


def test_a_training_waits_while_its_device_is_off_duty_and_stops_when_it_pauses() -> None:
    now, waits = 0.0, 0

    def wait(seconds: float) -> None:
        nonlocal now, waits
        now, waits = now + seconds, waits + 1

    duty = 0.5
    brake = Brake(lambda: duty, lambda: False, lambda: now, wait)
    assert (brake(), waits) == (False, 0)
    now = 1.2
    assert brake() is False
    assert now >= 2.0
    duty = 0.0
    assert brake() is True
    duty = 1.0
    assert Brake(lambda: duty, lambda: True)() is True, "the process is to end"


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are confined on Linux")
def test_a_job_of_a_warm_device_works_and_stands_still_in_turns(tmp_path: Path) -> None:
    dial = Dial(FINE)
    with device(tmp_path, dial) as (_, run):

        async def warm_up() -> None:
            await until(lambda: job_is(psutil.STATUS_RUNNING))
            dial.reading = WARM
            for _ in range(2):
                await until(lambda: job_is(psutil.STATUS_STOPPED))
                await until(lambda: job_is(psutil.STATUS_RUNNING))

        run(warm_up)


def test_a_training_that_a_pause_has_stopped_is_done_again_when_the_device_may_work(tmp_path: Path) -> None:
    model, asked = save_weights(initial_weights(SMALL, 1)), 0
    assignment = Assignment(
        uuid4(), uuid4(), 1, hashlib.sha256(model).hexdigest(), SMALL, PLAN, Policy(CLIP),
        datetime.now(UTC) + timedelta(hours=1),
    )  # fmt: skip

    def answer(seen: Seen) -> Answer:
        return Answer(body=model) if seen.method == "GET" else Answer(body=b'{"position": 1}')

    def duty() -> float:
        nonlocal asked
        asked += 1
        return 0.0 if asked == 3 else 1.0

    async def take_part(url: str, state: DeviceState) -> list[bool]:
        async with open_http(url) as http:
            client = VillageClient(http, None, RetryPolicy(attempts=1))
            with ThreadPoolExecutor(1) as executor:
                work = Participation(
                    uuid4(), client, state, small_data(), executor, Brake(duty, lambda: False), structlog.get_logger()
                )
                return [await work.take_part(assignment) for _ in range(3)]

    state = DeviceState(tmp_path / "device")
    with village(answer) as (url, seen):
        assert asyncio.run(take_part(url, state)) == [False, True, False]
    journal = state.journal(assignment.round_id)
    state.close()
    assert journal is not None
    assert journal.stage is Stage.SUBMITTED
    assert [one.path.rpartition("/")[2] for one in seen if one.method == "POST"] == ["submit_update"]
