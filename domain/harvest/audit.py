"""Audits: a known job with a known answer, so that a device which only claims to compute is found out."""

import hashlib
from uuid import UUID

from domain.kernel import Refusal, Value

AUDIT_ROUNDS = 200_000
TRUSTED_AFTER = 10
"""Valid audits in a row, up to which every session is audited."""


class AuditUnknown(Refusal):
    """An audit is answered once, by the device it was put to, while it is open."""

    status = 409


class Job(Value, frozen=True):
    """Hash the seed with SHA-256, then the result, `rounds` times in all; the answer is the last result in hex."""

    seed: str
    rounds: int


def job_of(session_id: UUID, entropy: UUID) -> Job:
    """The job of a session: the same for the same session and the command that opened it."""
    return Job(hashlib.sha256(f"audit|{session_id}|{entropy}".encode()).hexdigest(), AUDIT_ROUNDS)


def answer_of(job: Job) -> str:
    """What the job gives; about 50 ms of one core."""
    value = bytes.fromhex(job.seed)
    for _ in range(job.rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()


def is_chosen(session_id: UUID, entropy: UUID, valid_in_a_row: int) -> bool:
    """Whether a session is audited: always up to 10 valid in a row, then with probability 1 / valid in a row.

    `entropy` is known to nobody before the session is opened, and recorded with it: the log chooses the same again.
    """
    if valid_in_a_row < TRUSTED_AFTER:
        return True
    drawn = int.from_bytes(hashlib.sha256(f"chosen|{session_id}|{entropy}".encode()).digest()[:8])
    return drawn * valid_in_a_row < 2**64
