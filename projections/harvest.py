"""The read model of harvest: every session as it stands, and why."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from domain.harvest import states
from domain.harvest.session import HarvestSession
from domain.kernel.fact import Fact

from .rows import Key, ReadModel, Row

NO_AUDIT, ASKED, ANSWERED, PASSED, FAILED = "none", "asked", "answered", "passed", "failed"


class Reason(msgspec.Struct, frozen=True):
    """Why a session is as it is: what kind of limit, which sensor, what it observed and where the limit lies."""

    kind: str
    sensor: str = ""
    observed: float | None = None
    limit: float | None = None


class HarvestSessionRow(Row, frozen=True):
    """A session. `verified_ms` is what is paid: time by duty; `earned_grains` is what was claimed for it."""

    session_id: UUID
    device_id: UUID
    owner_id: UUID
    number: int
    state: str
    reason: Reason
    policy: dict[str, Any]
    sensors: list[str]
    run_ms: int
    verified_ms: int
    samples: int
    trips: int
    quality_bp: int
    audit: str
    claim_id: UUID | None
    earned_grains: int
    requested_at: datetime
    changed_at: datetime
    closed_at: datetime | None
    position: int


class HarvestSessions(ReadModel[HarvestSessionRow]):
    """Sessions by id. `position` is that of the request."""

    name = "harvest_sessions"
    table = "read.harvest_sessions"
    row = HarvestSessionRow
    key = ("session_id",)
    folds_own_stream = True
    listens = (
        HarvestSession.Requested,
        HarvestSession.Rejected,
        HarvestSession.SegmentClosed,
        HarvestSession.SafetyTripped,
        HarvestSession.SafetyCleared,
        HarvestSession.StopRequested,
        HarvestSession.AuditRequested,
        HarvestSession.AuditAnswered,
        HarvestSession.AuditPassed,
        HarvestSession.AuditFailed,
        HarvestSession.SessionClosed,
        HarvestSession.Rewarded,
    )
    begins = (HarvestSession.Requested,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: HarvestSessionRow | None, fact: Fact, key: Key) -> HarvestSessionRow | None:
        if isinstance(fact.event, HarvestSession.Requested):
            return _requested(fact.event, fact)
        return None if row is None else msgspec.structs.replace(row, **_changes(row, fact))


READ_MODELS = (HarvestSessions(),)


def _requested(asked: HarvestSession.Requested, fact: Fact) -> HarvestSessionRow:
    return HarvestSessionRow(
        session_id=asked.session_id,
        device_id=asked.device_id,
        owner_id=asked.owner_id,
        number=asked.number,
        state=states.ADMITTED,
        reason=Reason("starting"),
        policy=msgspec.to_builtins(asked.policy),
        sensors=asked.sensors,
        run_ms=0,
        verified_ms=0,
        samples=0,
        trips=0,
        quality_bp=0,
        audit=NO_AUDIT,
        claim_id=None,
        earned_grains=0,
        requested_at=asked.requested_at,
        changed_at=asked.requested_at,
        closed_at=None,
        position=fact.position,
    )


def _changes(row: HarvestSessionRow, fact: Fact) -> dict[str, Any]:
    found = fact.event
    match found:
        case HarvestSession.Rejected():
            return {"state": states.REJECTED, "reason": Reason(found.reason), "closed_at": fact.recorded_at}
        case HarvestSession.SegmentClosed():
            return {
                "run_ms": row.run_ms + found.run_ms,
                "verified_ms": row.verified_ms + found.verified_ms,
                "samples": row.samples + found.samples,
            }
        case HarvestSession.SafetyTripped():
            reason = Reason(found.kind, found.sensor, found.observed, found.limit)
            return {"state": found.to, "reason": reason, "trips": row.trips + 1, "changed_at": found.at}
        case HarvestSession.SafetyCleared():
            return {"state": states.RUNNING, "reason": Reason("clear"), "changed_at": found.at}
        case HarvestSession.StopRequested():
            return {"state": states.STOPPING, "reason": Reason(found.reason), "changed_at": fact.recorded_at}
        case HarvestSession.SessionClosed():
            return {
                "state": states.CLOSED, "reason": Reason(found.reason), "quality_bp": found.quality_bp,
                "changed_at": found.closed_at, "closed_at": found.closed_at,
            }  # fmt: skip
        case HarvestSession.Rewarded():
            return {"state": states.REWARDED, "claim_id": found.claim_id, "earned_grains": found.grains}
    return {"audit": _AUDITS[type(found)]}


_AUDITS = {
    HarvestSession.AuditRequested: ASKED,
    HarvestSession.AuditAnswered: ANSWERED,
    HarvestSession.AuditPassed: PASSED,
    HarvestSession.AuditFailed: FAILED,
}
