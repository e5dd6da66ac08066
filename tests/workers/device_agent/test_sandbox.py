"""A job's process computes within its limits, cut off from the network, and is ended with a reason beyond them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from domain.federated_learning.manifest import mlp_manifest
from domain.marketplace.work import JobLimits, JobSpec
from workers.device_agent.data import mnist_split, samples_blob
from workers.device_agent.jobs import landlock
from workers.device_agent.jobs.confinement import enforced
from workers.device_agent.jobs.sandbox import Ending, Sandbox
from workers.models import initial_weights, save_weights

ROOT = Path(__file__).resolve().parents[3]
MINUTES = 600_000
FOR_EVER = {"seed": 1, "start": 0, "count": 1 << 40, "difficulty_bits": 64}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are confined on Linux")


def ended(folder: Path, job_type: str, parameters: dict[str, int], **limits: int) -> Ending:
    usual = {"cpu_ms": MINUTES, "wall_ms": MINUTES, "memory_mb": 2_048}
    sandbox = Sandbox(JobSpec(job_type, parameters, {}, JobLimits(**usual | limits)), folder)
    try:
        while (ending := sandbox.poll()) is None:
            time.sleep(0.01)
    finally:
        sandbox.close()
    assert not folder.exists()
    return ending


def result(ending: Ending) -> dict[str, object]:
    assert (ending.outcome, ending.reason) == ("succeeded", "")
    assert ending.result is not None
    assert 0 < ending.used_ms <= ending.wall_ms
    return dict(msgspec.json.decode(ending.result))


def test_a_hash_search_finds_the_first_nonce(tmp_path: Path) -> None:
    parameters = {"seed": 1, "start": 0, "count": 1 << 20, "difficulty_bits": 12}
    found = result(ended(tmp_path, "hash_search", parameters))
    assert str(found["digest"]).startswith("000")
    assert found["tried"] == int(str(found["nonce"])) + 1


def test_a_matrix_benchmark_gives_the_checksum_that_anybody_gets(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    parameters = {"seed": 7, "size": 64, "rounds": 5}
    one, other = (result(ended(folder, "matrix_benchmark", parameters)) for folder in folders)
    assert one == other
    assert one["operations"] == 2 * 64**3 * 5


def test_a_model_is_evaluated_on_a_shard(tmp_path: Path) -> None:
    _, test = mnist_split()
    (tmp_path / "model").write_bytes(save_weights(initial_weights(mlp_manifest([784, 16, 10]), 0)))
    (tmp_path / "data").write_bytes(samples_blob(test))
    found = result(ended(tmp_path, "evaluate_model", {}, memory_mb=4_096))
    assert 0 <= int(str(found["accuracy_bp"])) <= 10_000
    assert int(str(found["loss_micro"])) > 0


def test_what_is_no_model_is_unfit(tmp_path: Path) -> None:
    for name in ("model", "data"):
        (tmp_path / name).write_bytes(b"not a model")
    ending = ended(tmp_path, "evaluate_model", {}, memory_mb=4_096)
    assert (ending.outcome, ending.reason, ending.result) == ("failed", "unfit", None)


@pytest.mark.parametrize(("limit", "least"), [("cpu", 300), ("wall", 1_000)])
def test_a_job_beyond_its_time_is_ended(tmp_path: Path, limit: str, least: int) -> None:
    ending = ended(tmp_path, "hash_search", FOR_EVER, **{f"{limit}_ms": least})
    assert (ending.outcome, ending.reason) == ("failed", f"{limit}_limit")


def test_a_job_stands_still_while_its_device_rests(tmp_path: Path) -> None:
    limits = JobLimits(cpu_ms=500, wall_ms=MINUTES, memory_mb=2_048)
    sandbox = Sandbox(JobSpec("hash_search", FOR_EVER, {}, limits), tmp_path)
    sandbox.rest(resting=True)
    sandbox.rest(resting=True)
    state = Path(f"/proc/{sandbox._process.pid}/stat")
    ends = time.monotonic() + 60
    while state.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < ends, "the job does not stand still"
        time.sleep(0.01)
    assert sandbox.poll() is None
    used_ms = sandbox.used_ms
    time.sleep(0.05)
    assert (sandbox.poll(), sandbox.used_ms) == (None, used_ms)
    sandbox.rest(resting=False)
    while (ending := sandbox.poll()) is None:
        time.sleep(0.01)
    sandbox.close()
    assert ending.reason == "cpu_limit"


def test_a_job_beyond_its_memory_is_ended(tmp_path: Path) -> None:
    ending = ended(tmp_path, "matrix_benchmark", {"seed": 1, "size": 4_096, "rounds": 1}, memory_mb=512)
    assert (ending.outcome, ending.reason) == ("failed", "memory_limit")


INSIDE = """
import os, sys, pathlib
sys.path[:] = sys.argv[1:]
from workers.device_agent.jobs import landlock
from workers.device_agent.jobs.confinement import confine, enforced
landlock.version = lambda offered=landlock.version(): min(offered, {most})
confine(cpu_ms=60000, memory_mb=512, parent=os.getppid(), folder=pathlib.Path.cwd())
{what}
"""
ANY = 99
landlocked = pytest.mark.skipif(landlock.version() == 0, reason="this kernel has no Landlock")


def confined(folder: Path, what: str, most: int = ANY) -> str:
    """What a confined process ended with: the name of an error, or nothing. `most` is the newest Landlock it knows."""
    code = [sys.executable, "-c", INSIDE.format(what=what, most=most), str(ROOT), *sys.path]
    told = subprocess.run(code, cwd=folder, capture_output=True, text=True, check=False)
    error = told.stderr.strip().rpartition("\n")[2].partition(":")[0]
    assert (told.returncode != 0) == bool(error), told.stderr
    return error


@pytest.mark.parametrize(
    ("what", "refused"),
    [
        ("import socket; socket.socket()", "PermissionError"),
        ("os.fork()", "PermissionError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("os.kill(os.getppid(), 0)", "PermissionError"),
        ("open('big', 'wb').write(bytes(2 << 20))", "OSError"),
        ("[open('/dev/null') for _ in range(300)]", "OSError"),
        ("import threading; t = threading.Thread(target=print); t.start(); t.join()", ""),
    ],
)
def test_a_confined_process_reaches_nobody(tmp_path: Path, what: str, refused: str) -> None:
    assert confined(tmp_path, what) == refused


@landlocked
@pytest.mark.parametrize("most", range(1, 8))
def test_a_confined_process_has_its_folder_and_no_other_file(tmp_path: Path, most: int) -> None:
    folder, key = tmp_path / "job", tmp_path / "device.key"
    folder.mkdir()
    key.write_text("secret")
    mine = "open('r', 'w').write('mine'); open('r', 'a').write('!'); assert open('r').read() == 'mine!'; os.remove('r')"
    assert confined(folder, mine, most) == ""
    refused = [f"open({str(key)!r})", f"open({str(key)!r}, 'a')", f"os.listdir({str(tmp_path)!r})"]
    refused += [f"open({str(tmp_path / 'new')!r}, 'w')", "open('/etc/passwd')", f"open('/proc/{os.getpid()}/environ')"]
    tries = "".join(f"\ntry: {one}\nexcept PermissionError: pass\nelse: sys.exit(3)" for one in refused)
    assert confined(folder, tries, most) == ""
    assert key.read_text() == "secret"


def test_without_landlock_a_job_runs_and_that_is_told(tmp_path: Path) -> None:
    assert confined(tmp_path, "assert 'no Landlock' in enforced()['files']; open('/etc/passwd')", most=0) == ""


@landlocked
def test_with_landlock_that_is_told() -> None:
    assert enforced()["files"] == f"landlock {landlock.version()}"


def test_a_job_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    starts = (
        "import sys, time, pathlib\nfrom domain.marketplace.work import *\n"
        "from workers.device_agent.jobs.sandbox import Sandbox\n"
        f"spec = JobSpec('hash_search', {FOR_EVER!r}, {{}}, JobLimits(600000, 600000, 512))\n"
        f"print(Sandbox(spec, pathlib.Path({str(tmp_path)!r}))._process.pid, flush=True)\ntime.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", starts], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    starter.stdout.close()
    ends = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < ends, "the job outlives its starter"
        time.sleep(0.05)
