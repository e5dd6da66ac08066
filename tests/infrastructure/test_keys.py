"""Key files: made once, whole or not at all, readable by nobody else."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infrastructure.keys import KeyStoreUnsafe, load_keys


def test_keys_are_made_once_and_are_the_same_afterwards(tmp_path: Path) -> None:
    first, second = load_keys(tmp_path), load_keys(tmp_path)
    assert first.token_signing.private_bytes_raw() == second.token_signing.private_bytes_raw()
    assert (first.challenge, first.claim_code) == (second.challenge, second.claim_code)
    assert first.challenge != first.claim_code


def test_only_the_owner_may_read_them(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        load_keys(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    files = list((tmp_path / "keys").iterdir())
    assert sorted(file.name for file in files) == [
        "challenge.key", "claim_code.key", "job_signing.pem", "request.key", "token_signing.pem",
    ]  # fmt: skip
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: load_keys(tmp_path), range(64)))
    assert len({(keys.token_signing.private_bytes_raw(), keys.job_signing.private_bytes_raw()) for keys in found}) == 1
    assert len({(keys.challenge, keys.claim_code, keys.request) for keys in found}) == 1
    assert len(list((tmp_path / "keys").iterdir())) == 5, "no draft is left behind"


@pytest.mark.parametrize(("name", "mode"), [("", 0o755), ("challenge.key", 0o644), ("token_signing.pem", 0o660)])
def test_a_mode_that_lets_others_in_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    load_keys(tmp_path)
    (tmp_path / "keys" / name).chmod(mode)
    with pytest.raises(KeyStoreUnsafe, match="mode"):
        load_keys(tmp_path)


def test_a_link_in_place_of_a_key_is_refused(tmp_path: Path) -> None:
    load_keys(tmp_path)
    key = tmp_path / "keys" / "challenge.key"
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyStoreUnsafe, match="link"):
        load_keys(tmp_path)


@pytest.mark.parametrize("name", ["challenge.key", "token_signing.pem"])
def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path, name: str) -> None:
    load_keys(tmp_path)
    (tmp_path / "keys" / name).write_bytes(b"short")
    with pytest.raises(KeyStoreUnsafe):
        load_keys(tmp_path)
    assert (tmp_path / "keys" / name).read_bytes() == b"short"


def test_printing_the_keys_shows_none_of_them(tmp_path: Path) -> None:
    assert repr(load_keys(tmp_path)) == "Keys()"
