"""A device that lends itself obeys its policy with or without a village, and loses no sample that counts."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import psutil
import pytest

from domain.harvest.audit import Job, answer_of
from domain.harvest.policy import HarvestPolicy, PolicyInvalid, checked
from domain.harvest.sample import MAX_AGE, SAMPLE_EVERY
from tests.harvesting import START, TRACES
from workers.device_agent import sensors
from workers.device_agent.client import RetryPolicy, VillageClient, open_http
from workers.device_agent.harvest import MAX_BUFFERED, Harvest, HarvestOptions
from workers.device_agent.sensors import MachineSensors, Measured, TraceSensors

from .village import Answer, Seen, village

JOB = Job("ab" * 32, 10)
FINE = Measured(
    power="charging", battery_percent=80.0, battery_temp=30.0, cpu_percent=1.0, memory_percent=1.0, metered=False
)


class Script:
    """Sensors that say what they are told, and a clock that moves with them; `told` runs before each reading."""

    def __init__(self, *readings: Measured, told: Callable[[int], None] = lambda number: None) -> None:
        self.readings, self.told, self.number, self.now = list(readings), told, 0, START

    def names(self) -> list[str]:
        return ["battery", "power", "temperature", "cpu", "network"]

    def read(self) -> Measured | None:
        self.told(self.number)
        if self.number == len(self.readings):
            return None
        self.number += 1
        self.now += SAMPLE_EVERY
        return self.readings[self.number - 1]

    def clock(self) -> datetime:
        return self.now


class Patient(Script):
    """Stays at its tenth reading until the device is ready, however long the village takes to open a session."""

    def __init__(self, ready: Callable[[], bool], *readings: Measured, told: Callable[[int], None]) -> None:
        super().__init__(*readings, told=told)
        self._ready = ready

    def read(self) -> Measured | None:
        if self.number == 10 and not self._ready():
            self.now += SAMPLE_EVERY
            return self.readings[self.number]
        return super().read()


class Office:
    """What the village answers, and what it was sent."""

    def __init__(self, status: str = "running", audit: Job | None = JOB) -> None:
        self.status, self.audit, self.away = status, audit, False
        self.policy: HarvestPolicy | None = None
        self.session_id = uuid4()
        self.refuse: dict[str, str] = {}
        self.bodies: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, seen: Seen) -> Answer:
        name, body = seen.path.rpartition("/")[2], msgspec.json.decode(seen.body)
        if self.away:
            return Answer(drop=True)
        if name in self.refuse:
            code = self.refuse.pop(name)
            detail = f"session {self.session_id} is open"
            return Answer(409, msgspec.json.encode({"code": code, "detail": detail, "status": 409}))
        self.bodies.append((name, body))
        answer: dict[str, Any] = {"position": 1, "status": self.status}
        if name == "start_harvest_session":
            audit = None if self.audit is None else msgspec.to_builtins(self.audit)
            answer |= {"id": str(self.session_id), "status": "admitted", "audit": audit}
            answer |= {} if self.policy is None else {"policy": msgspec.to_builtins(self.policy)}
        return Answer(body=msgspec.json.encode(answer))

    def sent(self, name: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.bodies if asked == name]

    def sequences(self) -> list[int]:
        return [sample["sequence"] for body in self.sent("send_samples") for sample in body["samples"]]


def lend(office: Office, script: Script, **policy: Any) -> Harvest:
    """Run a harvest until its sensors have nothing more to say."""

    async def run(url: str) -> Harvest:
        async with open_http(url) as http:
            client = VillageClient(http, None, RetryPolicy(attempts=2, base_s=0.001))
            options = HarvestOptions(policy, sample_s=0.02, send_s=0.01)
            harvest = Harvest(client, script, options, script.clock)
            await asyncio.wait_for(harvest.run(), 60)
            return harvest

    with village(office) as (url, _):
        return asyncio.run(run(url))


def test_a_device_opens_a_session_answers_its_audit_tells_every_sample_once_and_stops() -> None:
    office = Office()
    lend(office, Script(*[FINE] * 30), min_battery_percent=40)
    (opened,) = office.sent("start_harvest_session")
    assert opened["policy"] == {"min_battery_percent": 40}
    assert office.sent("answer_audit") == [{"session_id": str(office.session_id), "answer": answer_of(JOB)}]
    sequences = office.sequences()
    assert sequences == sorted(set(sequences))
    assert sequences[-1] == 30
    assert len(office.sent("stop_harvest_session")) == 1


def test_a_device_that_is_cut_off_pauses_by_itself_and_tells_later_what_it_measured() -> None:
    office, seen = Office(), []
    hot = msgspec.structs.replace(FINE, battery_temp=61.0)
    harvests: list[Harvest] = []

    def told(number: int) -> None:
        office.away = 15 <= number < 25
        seen.append(harvests[0].may_work if harvests else None)

    script = Script(*[FINE] * 20, *[hot] * 5, *[FINE] * 20, told=told)

    async def run(url: str) -> None:
        async with open_http(url) as http:
            client = VillageClient(http, None, RetryPolicy(attempts=1))
            harvests.append(Harvest(client, script, HarvestOptions({}, sample_s=0.02, send_s=0.01), script.clock))
            await asyncio.wait_for(harvests[0].run(), 60)

    with village(office) as (url, _):
        asyncio.run(run(url))
    assert seen[19] is True
    assert seen[21:] == [False] * len(seen[21:])
    sequences = office.sequences()
    assert sequences == sorted(set(sequences))
    assert set(range(16, 46)) <= set(sequences)


STRICT = {"max_cpu_temp": 35.0, "thermal_throttle_temp": 40.0}
LAX = HarvestPolicy(max_cpu_temp=50.0, thermal_throttle_temp=60.0)


@pytest.mark.parametrize(
    ("agreed", "given", "degrees", "works"),
    [
        (msgspec.convert(STRICT, HarvestPolicy), {}, 42.0, False),
        (LAX, {}, 57.0, True),
        (LAX, STRICT, 42.0, False),
        (None, {}, 42.0, True),
    ],
    ids=["its owner has set stricter limits", "the village's are laxer", "it has said stricter ones", "none are told"],
)
def test_a_device_that_is_cut_off_obeys_what_was_agreed_and_what_it_said(
    agreed: HarvestPolicy | None, given: dict[str, Any], degrees: float, works: bool
) -> None:
    office, seen = Office(), []
    office.policy = agreed
    harvests: list[Harvest] = []

    def told(number: int) -> None:
        office.away = number >= 15
        seen.append(harvests[0].may_work)

    def ready() -> bool:
        return harvests[0].may_work

    script = Patient(ready, *[FINE] * 20, *[msgspec.structs.replace(FINE, battery_temp=degrees)] * 5, told=told)

    async def run(url: str) -> None:
        async with open_http(url) as http:
            client = VillageClient(http, None, RetryPolicy(attempts=1))
            harvests.append(Harvest(client, script, HarvestOptions(given, sample_s=0.02, send_s=0.01), script.clock))
            await asyncio.wait_for(harvests[0].run(), 60)

    with village(office) as (url, _):
        asyncio.run(run(url))
    assert (seen[19], seen[25]) == (True, works)


def test_a_device_works_only_while_the_village_lets_it() -> None:
    assert not lend(Office(status="paused"), Script(*[FINE] * 20)).may_work


def test_a_device_that_is_asked_to_stop_stops_and_does_not_begin_again() -> None:
    office = Office(status="stopping")
    lend(office, Script(*[FINE] * 40))
    assert len(office.sent("start_harvest_session")) == len(office.sent("stop_harvest_session")) == 1


def test_a_session_that_was_closed_is_followed_by_another_after_a_rest_only() -> None:
    office = Office()
    office.refuse = {"send_samples": "harvest_session_over"}
    lend(office, Script(*[FINE] * 40))
    assert len(office.sent("start_harvest_session")) == 1
    assert office.sent("send_samples") == []


def test_a_session_left_open_by_a_crash_is_stopped_before_another_is_opened() -> None:
    office = Office()
    office.refuse = {"start_harvest_session": "session_overlaps"}
    lend(office, Script(*[FINE] * 40))
    assert [name for name, _ in office.bodies][:2] == ["stop_harvest_session", "start_harvest_session"]


def test_a_device_that_is_not_fit_opens_no_session() -> None:
    office = Office()
    lend(office, Script(*[msgspec.structs.replace(FINE, power="discharging")] * 10))
    assert office.bodies == []


def test_what_is_kept_while_cut_off_is_what_the_village_would_still_take() -> None:
    assert MAX_AGE + timedelta(seconds=5) >= MAX_BUFFERED * SAMPLE_EVERY


def test_a_policy_of_unknown_fields_or_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown field"):
        HarvestOptions({"max_gpu": 3}).policy  # noqa: B018
    with pytest.raises(PolicyInvalid):
        checked(HarvestOptions({"min_battery_percent": 90, "resume_battery_percent": 80}).policy)


def test_a_device_that_pauses_at_a_higher_charge_resumes_at_no_lower_one() -> None:
    assert checked(HarvestOptions({"min_battery_percent": 90}).policy).resume_battery_percent == 90


# Sensors.


def test_this_machine_measures_what_it_can_and_says_so() -> None:
    machine = MachineSensors()
    found = machine.read()
    assert found.cpu_percent is not None
    assert 0 <= found.cpu_percent <= 100
    assert found.memory_percent is not None
    assert found.metered is False
    assert {"cpu", "network"} <= set(machine.names())


BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\ninput()"


def test_what_a_job_uses_is_not_use_by_others_while_it_runs_nor_once_it_has_ended() -> None:
    me = psutil.Process()
    before = sensors.own_cpu_s(me)
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"burnt\n"
        running = sensors.own_cpu_s(me)
        job.communicate(b"\n", timeout=60)
    ended = sensors.own_cpu_s(me)
    assert before + 0.25 < running <= ended + 0.1, "clock ticks are rounded"


def test_a_sensor_that_fails_is_unknown_and_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("no such sensor")

    monkeypatch.setattr(psutil, "sensors_battery", broken)
    monkeypatch.delattr(psutil, "sensors_temperatures")
    machine = MachineSensors(metered=True)
    found = machine.read()
    assert (found.power, found.battery_percent, found.cpu_temp, found.metered) == (None, None, None, True)
    assert found.memory_percent is not None
    assert not {"battery", "power", "temperature"} & set(machine.names())


def test_a_laptops_battery_and_its_hottest_core_are_read_and_broken_readings_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reading:
        def __init__(self, **values: Any) -> None:
            self.__dict__.update(values)

    cores = [Reading(current=50.0), Reading(current=63.0), Reading(current=255.0), Reading(current=0.0)]
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: {"coretemp": cores, "nvme": [Reading(current=70.0)]})
    monkeypatch.setattr(psutil, "sensors_battery", lambda: Reading(percent=61.4, power_plugged=False))
    found = MachineSensors().read()
    assert (found.power, found.battery_percent, found.cpu_temp, found.skin_temp) == ("discharging", 61.4, 63.0, None)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: Reading(percent=61.4, power_plugged=None))
    assert MachineSensors().read().power is None


def test_no_battery_is_mains_and_a_battery_that_says_nothing_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None)
    monkeypatch.setattr(sensors, "_SUPPLIES", tmp_path)
    assert MachineSensors().read().power == "mains"
    (tmp_path / "BAT0").mkdir()
    (tmp_path / "BAT0" / "type").write_text("Battery\n")
    assert MachineSensors().read().power is None


def test_a_trace_is_played_to_its_end_and_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    played = TraceSensors(TRACES / "laptop-unplugged.csv")
    found = list(iter(played.read, None))
    assert len(found) == 180
    assert {one.power for one in found} == {"charging", "discharging"}
    assert played.names() == ["battery", "power", "temperature", "cpu", "idle", "network"]
    wrong = tmp_path / "wrong.csv"
    for text in ("", "power,battery_percent\ncharging,much\n"):
        wrong.write_text(text)
        with pytest.raises(ValueError, match=r"no trace|no samples"):
            TraceSensors(wrong)
