"""Claim codes, challenges, proofs and weak keys."""

import base64
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.device_registry import enrolment
from domain.device_registry.enrolment import (
    ChallengeExpired,
    ChallengeInvalid,
    EnrolmentProofInvalid,
    PublicKeyMalformed,
    PublicKeyWeak,
)
from tests.devices import NOW, Applicant

SECRET = bytes(32)
NONCE = bytes(range(16))
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def edwards_add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Addition on Ed25519's curve (RFC 8032), to check the table of weak keys by itself."""
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, P) % P
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P) % P
    return x, y


def points_of_order_dividing_8() -> Iterator[tuple[int, int]]:
    """Every point with one of the forbidden y coordinates, found by the curve's equation."""
    for y in enrolment._SMALL_ORDER_Y:
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if (x * x - square) % P:
            x = x * pow(2, (P - 1) // 4, P) % P
        assert (x * x - square) % P == 0
        yield from {(x, y), (-x % P, y)}


def test_the_forbidden_y_coordinates_are_exactly_those_of_the_eight_points_of_small_order() -> None:
    points = set(points_of_order_dividing_8())
    assert len(points) == 8
    for point in points:
        doubled = point
        for _ in range(3):
            doubled = edwards_add(doubled, doubled)
        assert doubled == (0, 1)


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", sorted(enrolment._SMALL_ORDER_Y))
def test_a_signing_key_of_small_order_is_refused_with_either_sign(y: int, sign: int) -> None:
    weak = base64.b64encode((y | sign << 255).to_bytes(32, "little")).decode()
    with pytest.raises(PublicKeyWeak):
        enrolment.check_keys(weak, Applicant().x25519_pub)


@pytest.mark.parametrize(
    "u",
    [
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        P - 1,
        P,
        P + 1,
    ],
)
def test_an_agreement_key_of_small_order_is_refused_in_every_encoding(u: int) -> None:
    weak = base64.b64encode(u.to_bytes(32, "little")).decode()
    with pytest.raises(PublicKeyWeak):
        enrolment.check_keys(Applicant().ed25519_pub, weak)


def test_a_claim_code_has_160_bits_and_comes_again_from_the_same_seed_only() -> None:
    code = enrolment.claim_code(SECRET, b"one")
    assert len(base64.b32decode(code.upper())) * 8 == 160
    assert enrolment.claim_code(SECRET, b"one") == code
    assert enrolment.claim_code(SECRET, b"two") != code
    assert enrolment.claim_code(bytes(31) + b"\1", b"one") != code


def test_a_challenge_is_accepted_until_it_expires() -> None:
    challenge = enrolment.challenge(SECRET, NONCE, NOW + timedelta(minutes=5))
    assert len(challenge) <= enrolment.MAX_CHALLENGE
    enrolment.check_challenge(SECRET, challenge, NOW)
    with pytest.raises(ChallengeExpired):
        enrolment.check_challenge(SECRET, challenge, NOW + timedelta(minutes=5))


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_challenge_with_any_bit_changed_is_not_ours(position: int, bit: int) -> None:
    challenge = enrolment.challenge(SECRET, NONCE, NOW + timedelta(minutes=5))
    raw = bytearray(base64.urlsafe_b64decode(challenge + "=" * (-len(challenge) % 4)))
    raw[position % len(raw)] ^= 1 << bit
    with pytest.raises(ChallengeInvalid):
        enrolment.check_challenge(SECRET, base64.urlsafe_b64encode(raw).decode().rstrip("="), NOW)


@given(st.text(max_size=150))
def test_any_other_text_is_not_a_challenge(text: str) -> None:
    with pytest.raises(ChallengeInvalid):
        enrolment.check_challenge(SECRET, text, NOW)


def check(applicant: Applicant, **changes: str) -> None:
    enrolment.check_proof(
        **{
            "challenge": applicant.challenge,
            "code": applicant.code,
            "ed25519_pub": applicant.ed25519_pub,
            "x25519_pub": applicant.x25519_pub,
            "proof": applicant.proof(),
        }
        | changes
    )


def test_a_proof_by_the_key_itself_is_accepted() -> None:
    check(Applicant())


@pytest.mark.parametrize("field", ["challenge", "code", "ed25519_pub", "x25519_pub", "proof"])
def test_a_proof_about_anything_else_is_refused(field: str) -> None:
    other = Applicant()
    changed = other.proof() if field == "proof" else str(getattr(other, field)) + ("x" if field == "challenge" else "")
    with pytest.raises(EnrolmentProofInvalid):
        check(Applicant(), **{field: changed})


@pytest.mark.parametrize("proof", ["", "AAAA", "not base64", "é", "A" * 88, "A" * 86 + "=="])
def test_a_malformed_proof_is_refused(proof: str) -> None:
    with pytest.raises(EnrolmentProofInvalid):
        check(Applicant(), proof=proof)


@pytest.mark.parametrize("key", ["", "A" * 44, "é" * 44, "=" * 44])
def test_a_malformed_key_is_refused_before_the_proof_is_looked_at(key: str) -> None:
    with pytest.raises(PublicKeyMalformed):
        check(Applicant(), ed25519_pub=key)


def test_the_text_to_sign_is_what_devices_everywhere_sign() -> None:
    assert enrolment.proof_text("challenge", "code", "ed", "x") == (
        b"aivillage-enrol-v1\nchallenge\n5694d08a2e53ffcae0c3103e5ad6f6076abd960eb1f8a56577040bc1028f702b\ned\nx"
    )
