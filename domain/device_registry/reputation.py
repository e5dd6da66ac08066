"""Reputation: what settled work says of a device, per service, as an exact fixed-point score."""

from typing import ClassVar
from uuid import UUID

from domain.kernel import Aggregate, Created, Opener, Refusal, Snapshot, SnapshotPolicy, derive, event

from .reputation_rule import FULL_WEIGHT_BP, NEWCOMER_BP, RULE_VERSION, Standing

__all__ = [
    "NEWCOMER_BP",
    "RULE_VERSION",
    "SERVICES",
    "EvidenceWeightInvalid",
    "Reputation",
    "ReputationServiceUnknown",
    "Standing",
    "check_evidence",
    "testimony",
]

SERVICES = frozenset(
    {"communication", "federated_learning", "harvest", "marketplace", "privacy"}
)  # the contexts in which a device does work for others


class ReputationServiceUnknown(Refusal):
    """A device has a reputation for work in one of the village's services."""


class EvidenceWeightInvalid(Refusal):
    """Evidence weighs 1 to 10,000 basis points."""


class ReputationSnapshot(Snapshot, frozen=True):
    """A reputation's attributes."""

    device_id: UUID
    service: str
    standing: Standing


class Reputation(Aggregate):
    """The reputation of one device in one service. Evidence never refuses and never conflicts."""

    snapshots = SnapshotPolicy(ReputationSnapshot, every=100)

    class Opened(Created):
        device_id: UUID
        service: str

    class EvidenceRecorded(Aggregate.Event):
        commutes: ClassVar[bool] = True

        device_id: UUID
        service: str
        good: bool
        weight_bp: int
        cause_event_id: UUID
        rule_version: int

    @event(Opened)
    def __init__(self, device_id: UUID, service: str) -> None:
        self.device_id = device_id
        self.service = service
        self.standing = Standing()

    @staticmethod
    def create_id(device_id: UUID, service: str) -> UUID:
        return derive("device_registry.Reputation", device_id, service)

    def weigh(self, *, good: bool, weight_bp: int, cause_event_id: UUID) -> None:
        """Add one piece of evidence. Raises EvidenceWeightInvalid."""
        check_evidence(self.service, weight_bp)
        self._evidence_recorded(
            device_id=self.device_id,
            service=self.service,
            good=good,
            weight_bp=weight_bp,
            cause_event_id=cause_event_id,
            rule_version=RULE_VERSION,
        )

    @event(EvidenceRecorded)
    def _evidence_recorded(
        self, device_id: UUID, service: str, good: bool, weight_bp: int, cause_event_id: UUID, rule_version: int
    ) -> None:
        self.standing = self.standing.after(good=good, weight_bp=weight_bp, rule_version=rule_version)


def testimony(
    device_id: UUID, service: str, *, good: bool, weight_bp: int, cause_event_id: UUID
) -> tuple[Opener, Aggregate.Event]:
    """One piece of evidence as facts, which never conflict and open the reputation if need be."""
    stream = Reputation.create_id(device_id, service)
    evidence = Reputation.fact(
        Reputation.EvidenceRecorded,
        stream,
        device_id=device_id,
        service=service,
        good=good,
        weight_bp=weight_bp,
        cause_event_id=cause_event_id,
        rule_version=RULE_VERSION,
    )
    return Opener(Reputation.fact(Reputation.Opened, stream, device_id=device_id, service=service)), evidence


def check_evidence(service: str, weight_bp: int) -> None:
    """Raises ReputationServiceUnknown, EvidenceWeightInvalid."""
    if service not in SERVICES:
        raise ReputationServiceUnknown(f"{service[:40]!r} is none of {', '.join(sorted(SERVICES))}")
    if not (type(weight_bp) is int and 1 <= weight_bp <= FULL_WEIGHT_BP):
        raise EvidenceWeightInvalid(f"{weight_bp!r}")
