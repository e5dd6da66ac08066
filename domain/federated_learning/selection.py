"""Selection: which devices are asked in a round, decided from a seed and a snapshot so that it can be replayed."""

import hashlib
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from domain.kernel import Refusal, Value

from .policy import ParticipantCriteria, RoundPolicy

RULES = (
    "federated_learning.selection/2: all criteria met; fewest past rounds first; then what is measured before what is"
    " declared; then sha256(seed|device_id)"
)
BEYOND_MAXIMUM = "beyond_max_participants"
MAX_CANDIDATES = 10_000


class TooFewParticipants(Refusal):
    """A round opens when at least min_participants devices meet its criteria."""


class Candidate(Value, frozen=True):
    """A device that meets the criteria, in how many rounds it was a participant before, and if it brought evidence."""

    device_id: UUID
    participations: int
    measured: bool = False


class Survey(Value, frozen=True):
    """What is known of the devices at one position: who meets the criteria, and how many others fail each one."""

    candidates: list[Candidate]
    position: int
    refused: dict[str, int]


class ParticipantDirectory(Protocol):
    """The port that answers which devices could take part; cli/ wires it to the device registry's read model."""

    def survey(self, criteria: ParticipantCriteria, *, limit: int) -> Survey:
        """At most `limit` devices that meet the criteria."""


class Selection(Value, frozen=True):
    """Who is asked, by which rules and from what they were chosen."""

    device_ids: list[UUID]
    snapshot_position: int
    ruleset_hash: str
    refused: dict[str, int]


def select(survey: Survey, criteria: ParticipantCriteria, policy: RoundPolicy, seed: int) -> Selection:
    """Choose at most max_participants of the candidates. The same survey and seed always give the same choice.

    Raises:
        TooFewParticipants: fewer than min_participants meet the criteria.
    """
    least, most = policy.min_participants, policy.max_participants
    if len(survey.candidates) < least:
        raise TooFewParticipants(f"{len(survey.candidates)} devices meet the criteria, {least} are needed")
    ranked = sorted(survey.candidates, key=lambda candidate: _rank(candidate, seed))
    chosen = ranked[:most]
    beyond = {BEYOND_MAXIMUM: len(ranked) - len(chosen)} if len(ranked) > len(chosen) else {}
    return Selection(
        device_ids=[candidate.device_id for candidate in chosen],
        snapshot_position=survey.position,
        ruleset_hash=ruleset_hash(criteria, least=least, most=most),
        refused=survey.refused | beyond,
    )


def ruleset_hash(criteria: ParticipantCriteria, *, least: int, most: int) -> str:
    """The SHA-256 of the rules a selection followed."""
    parts: Sequence[object] = (RULES, msgspec.to_builtins(criteria), least, most)
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def seed_of(session_id: UUID, number: int) -> int:
    """The seed of a session's round: 63 bits that nobody chooses."""
    return int.from_bytes(hashlib.sha256(f"{session_id}|{number}".encode()).digest()[:8]) >> 1


def _rank(candidate: Candidate, seed: int) -> tuple[int, bool, bytes]:
    return (
        candidate.participations,
        not candidate.measured,
        hashlib.sha256(f"{seed}|{candidate.device_id}".encode()).digest(),
    )
