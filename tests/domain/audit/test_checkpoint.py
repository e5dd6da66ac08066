"""Checkpoints as signed notes: read back what was signed, by whom, and nothing else."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.checkpoint import Checkpoint, CheckpointInvalid, Verifier, sign, verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = Verifier("village.example/log", KEY.public_key().public_bytes_raw())
CHECKPOINT = Checkpoint("village.example/log", 42, bytes(32))


def test_a_signed_checkpoint_is_read_back() -> None:
    assert verify(sign(CHECKPOINT, TRUSTED.name, KEY), [TRUSTED]) == CHECKPOINT


def test_the_text_is_origin_size_root_blank_line_and_signature() -> None:
    lines = sign(CHECKPOINT, TRUSTED.name, KEY).split("\n")
    assert lines[:4] == ["village.example/log", "42", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", ""]
    assert lines[4].startswith("— village.example/log ")
    assert lines[5:] == [""]


def test_a_changed_size_voids_the_signature() -> None:
    note = sign(CHECKPOINT, TRUSTED.name, KEY).replace("\n42\n", "\n43\n")
    with pytest.raises(CheckpointInvalid, match="signature"):
        verify(note, [TRUSTED])


def test_a_stranger_s_signature_is_not_trusted() -> None:
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(CheckpointInvalid, match="no trusted key"):
        verify(sign(CHECKPOINT, TRUSTED.name, stranger), [TRUSTED])


def test_after_a_key_rotation_old_and_new_checkpoints_are_both_trusted() -> None:
    new_key = Ed25519PrivateKey.generate()
    new = Verifier(TRUSTED.name, new_key.public_key().public_bytes_raw())
    for key in (KEY, new_key):
        assert verify(sign(CHECKPOINT, TRUSTED.name, key), [TRUSTED, new]) == CHECKPOINT


@pytest.mark.parametrize("signature", ["A", "AAAAA", "AAAA", "====", "é"])
def test_a_signature_that_is_no_base64_or_too_short_is_refused(signature: str) -> None:
    note = f"{CHECKPOINT.body()}\n— {TRUSTED.name} {signature}\n"
    with pytest.raises(CheckpointInvalid):
        verify(note, [TRUSTED])


def test_a_verifier_string_is_read_back() -> None:
    assert Verifier.parse(TRUSTED.text()) == TRUSTED


@pytest.mark.parametrize("text", ["", "a+b+c", "name+00000000+AQ==", TRUSTED.text()[:-4] + "AAA="])
def test_a_malformed_verifier_string_is_refused(text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        Verifier.parse(text)


@pytest.mark.parametrize("body", ["o\n1\n", "o\n-1\nAAAA\n", "o\n01\nAAAA\n", "o\n1\nAAAA\n"])
def test_a_malformed_checkpoint_is_refused_even_when_signed(body: str) -> None:
    class Odd(Checkpoint, frozen=True):
        def body(self) -> str:
            return body

    with pytest.raises(CheckpointInvalid):
        verify(sign(Odd("o", 1, bytes(32)), TRUSTED.name, KEY), [TRUSTED])
