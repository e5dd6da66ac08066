"""What a device keeps on disk, and what a crash leaves of it."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from workers.device_agent.state import (
    MODELS_KEPT,
    ROUNDS_KEPT,
    DeviceState,
    Identity,
    RoundJournal,
    Stage,
    StateInUse,
    file_matches,
)


def journal(round_id: UUID, stage: Stage) -> RoundJournal:
    return RoundJournal(round_id=round_id, number=1, model_hash="0" * 64, stage=stage)


def test_keys_are_made_once_and_only_the_owner_can_read_them(tmp_path: Path) -> None:
    state = DeviceState(tmp_path / "device")
    signing, agreement = state.signing_key.public_key(), state.agreement_key.public_key()
    state.close()
    again = DeviceState(tmp_path / "device")
    assert again.signing_key.public_key() == signing
    assert again.agreement_key.public_key() == agreement
    assert stat.S_IMODE((tmp_path / "device").stat().st_mode) == 0o700
    for file in (tmp_path / "device").iterdir():
        if file.is_file():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_two_processes_cannot_run_one_device(tmp_path: Path) -> None:
    state = DeviceState(tmp_path)
    with pytest.raises(StateInUse):
        DeviceState(tmp_path)
    state.close()
    DeviceState(tmp_path).close()


def test_the_sequence_rises_over_a_restart(tmp_path: Path) -> None:
    state = DeviceState(tmp_path)
    given = [state.next_sequence() for _ in range(3)]
    state.close()
    assert DeviceState(tmp_path).next_sequence() == given[-1] + 1
    assert given == [1, 2, 3]


def test_a_sequence_given_before_a_kill_is_never_given_again(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from workers.device_agent.state import DeviceState;"
        "print(DeviceState(Path(sys.argv[1])).next_sequence(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    seen = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=False)
        seen.append(int(done.stdout))
    assert seen == [1, 2]


def test_identity_and_journal_are_read_back(tmp_path: Path) -> None:
    state = DeviceState(tmp_path)
    assert state.identity is None
    identity = Identity(
        device_id=uuid4(), api_url="http://127.0.0.1:8420", capabilities={"ram_mb": 4096, "frameworks": ["pytorch"]}
    )
    state.enrolled(identity)
    round_id = uuid4()
    assert state.journal(round_id) is None
    state.write_journal(journal(round_id, Stage.TRAINED))
    state.close()
    again = DeviceState(tmp_path)
    assert again.identity == identity
    assert again.journal(round_id) == journal(round_id, Stage.TRAINED)


def test_a_half_written_draft_changes_nothing(tmp_path: Path) -> None:
    state = DeviceState(tmp_path)
    round_id = uuid4()
    state.write_journal(journal(round_id, Stage.DOWNLOADED))
    (tmp_path / "rounds" / str(round_id) / "journal.json.part").write_bytes(b'{"round_id"')
    assert state.journal(round_id) == journal(round_id, Stage.DOWNLOADED)


def test_an_unreadable_journal_means_the_round_starts_again(tmp_path: Path) -> None:
    state = DeviceState(tmp_path)
    round_id = uuid4()
    state.write_journal(journal(round_id, Stage.DOWNLOADED))
    (tmp_path / "rounds" / str(round_id) / "journal.json").write_bytes(b"not json")
    assert state.journal(round_id) is None


def test_an_ended_round_drops_its_update_and_old_rounds_and_models_go(tmp_path: Path) -> None:
    state = DeviceState(tmp_path)
    rounds = [uuid4() for _ in range(ROUNDS_KEPT + 3)]
    for age, round_id in enumerate(rounds):
        state.model_path(f"{age:064x}").write_bytes(b"model")
        state.save_update(round_id, b"update")
        state.write_journal(journal(round_id, Stage.SUBMITTED))
        assert not state.update_path(round_id).exists()
        os.utime(tmp_path / "rounds" / str(round_id), ns=(age, age))
    assert len(list((tmp_path / "rounds").iterdir())) == ROUNDS_KEPT
    assert len(list((tmp_path / "models").iterdir())) == MODELS_KEPT


def test_a_file_is_known_by_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "update"
    assert not file_matches(file, hashlib.sha256(b"whole").hexdigest())
    file.write_bytes(b"part")
    assert not file_matches(file, hashlib.sha256(b"whole").hexdigest())
    file.write_bytes(b"whole")
    assert file_matches(file, hashlib.sha256(b"whole").hexdigest())


def test_a_journal_is_plain_json(tmp_path: Path) -> None:
    text = msgspec.json.encode(journal(UUID(int=1), Stage.UPLOADED))
    assert b'"stage":"uploaded"' in text
