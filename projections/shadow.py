"""Shadow scoring: all history under a candidate rule of reputation, beside the live one, before it goes live."""

from typing import Any
from uuid import UUID

import msgspec
import psycopg

from domain.device_registry.reputation import Reputation
from domain.device_registry.reputation_rule import Standing, rule_of
from infrastructure.event_store.reader import LogReader


class Shadow(msgspec.Struct, frozen=True):
    """A device's score in one service, in basis points: as it is, and as it would be."""

    device_id: UUID
    service: str
    live_bp: int
    shadow_bp: int
    evidence: int


class Shadows(msgspec.Struct, frozen=True):
    """Every score at a position. `newcomer_bp` is what a device without evidence would have."""

    position: int
    newcomer_bp: int
    scores: list[Shadow]

    @property
    def differences(self) -> list[Shadow]:
        """The scores that would change, the greatest change first."""
        changed = [score for score in self.scores if score.live_bp != score.shadow_bp]
        return sorted(changed, key=lambda one: (-abs(one.shadow_bp - one.live_bp), one.device_id, one.service))


def shadow_scores(connection: psycopg.Connection[Any], version: int) -> Shadows:
    """Fold all evidence of the log under the rule it was recorded with, and under the candidate.

    Nothing is recorded: who wants the rule makes it the live one.

    Raises:
        ReputationRuleUnknown.
    """
    candidate, reader = rule_of(version), LogReader(connection)
    position = reader.head()
    live: dict[tuple[UUID, str], Standing] = {}
    shadow: dict[tuple[UUID, str], Standing] = {}
    counts: dict[tuple[UUID, str], int] = {}
    for records in reader.of_topics([Reputation.EvidenceRecorded.TOPIC], position):  # type: ignore[attr-defined]
        for fact in (record.fact().event for record in records):
            key = (fact.device_id, fact.service)
            live[key] = _after(live.get(key), fact, fact.rule_version)
            shadow[key] = _after(shadow.get(key), fact, version)
            counts[key] = counts.get(key, 0) + 1
    scores = [
        Shadow(key[0], key[1], live[key].score_bp, shadow[key].score_under(candidate), counts[key])
        for key in sorted(live)
    ]
    return Shadows(position, Standing().score_under(candidate), scores)


def _after(standing: Standing | None, fact: Any, version: int) -> Standing:
    return (standing or Standing()).after(good=fact.good, weight_bp=fact.weight_bp, rule_version=version)
