"""Reward a harvest session: judge its audit, claim what it has earned, post the claim when a budget pays it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from domain.harvest.session import HarvestSession
from domain.kernel import Conflict, Fact, Receipt, Refusal, derive, scope
from domain.tokenomics.pricing import BASIS, MAX_VERIFIED_MS, Activity
from domain.tokenomics.reward_claim import RewardClaim, claim_id_of
from domain.tokenomics.reward_epoch import EpochBudgetExhausted

from .deadline import Deadlines
from .forfeit import forfeits
from .plan import Plan, Step
from .process import Process
from .village import Village

ACTIVITY = "harvest_contribution"
SERVICE = "harvest"
ANSWER_WITHIN = timedelta(minutes=10)
"""How long after its end a session's audit may be answered."""
POSTING_PAUSE_MS = 6 * 3_600_000


class RewardHarvest(Plan):
    """Begins when a session is closed. One that fails its audit earns nothing, and its device gets bad evidence; one
    that lied is suspended. A device that is suspended earns nothing.

    A claim outlives the process: where no epoch's budget pays it in time, it stays pending and can be posted.
    """

    name = "reward_harvest"
    timeout_ms = 30 * 24 * 3_600_000
    begins_on = (HarvestSession.SessionClosed,)
    wakes_on = (HarvestSession.AuditAnswered,)

    def __init__(self, deadlines: Deadlines) -> None:
        self.steps = (
            Step("admit", _admit),
            Step("audit", _audit, awaits=_answered_by, parks=True),
            Step("accrue", _accrue, parks=True, pivot=True),
            Step(
                "post", _post, retries=60, first_pause_ms=POSTING_PAUSE_MS, last_pause_ms=POSTING_PAUSE_MS,
                transient=(EpochBudgetExhausted,),
            ),
        )  # fmt: skip
        super().__init__(deadlines)

    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        return {"session_id": str(fact.stream)}

    def process_of(self, fact: Fact) -> UUID:
        return process_id_of(fact.stream)


def process_id_of(session_id: UUID) -> UUID:
    """The id of the process that rewards a session."""
    return derive("sagas.Process", RewardHarvest.name, session_id)


def _session(process: Process, village: Village) -> HarvestSession:
    return village.harvest.get_session(session_id=UUID(process.subject["session_id"]))


def _admit(process: Process, village: Village) -> None:
    """From here on the session is this process's to reward, and nothing gives it up but an operator."""


def _answered_by(process: Process, village: Village) -> datetime | None:
    session = _session(process, village)
    if session.job is None or session.answer is not None or session.audit is not None:
        return None
    assert session.closed_at is not None
    until = session.closed_at + ANSWER_WITHIN
    return until if scope().now < until else None


def _audit(process: Process, village: Village) -> None:
    """Who answers wrongly lies about its work: it is suspended. Who is silent may have been cut off."""
    village.harvest.judge_audit(session_id=_session(process, village).id)
    session = _session(process, village)
    if session.audit is False and session.answer is not None:
        _if_it_stays(village.device_registry.suspend_device, device_id=session.device_id, reason="audit_failed")


def _accrue(process: Process, village: Village) -> None:
    """One claim, and evidence for the device: good for time that counts, bad for an audit that failed."""
    session = _session(process, village)
    passed, verified_ms = session.audit is not False, session.contribution.verified_ms
    claim_id, grains = None, 0
    if passed and verified_ms and session.quality_bp and not forfeits(village.log, session.device_id):
        receipt = village.tokenomics.accrue_reward(activity=_activity(session), cause_event_id=scope().causation_id)
        claim_id, grains = receipt.id, int(receipt.extra["grains"])
    village.harvest.mark_rewarded(session_id=session.id, claim_id=claim_id, grains=grains)
    if verified_ms or not passed:
        _testify(village, session, good=passed)


def _activity(session: HarvestSession) -> Activity:
    return Activity(
        activity_type=ACTIVITY,
        activity_id=session.id,
        device_id=session.device_id,
        owner_id=session.owner_id,
        verified_ms=min(session.contribution.verified_ms, MAX_VERIFIED_MS),
        quality_bp=session.quality_bp,
    )


def _testify(village: Village, session: HarvestSession, *, good: bool) -> None:
    _if_it_stays(
        village.device_registry.update_reputation, device_id=session.device_id, service=SERVICE, good=good,
        weight_bp=BASIS, cause_event_id=scope().causation_id,
    )  # fmt: skip


def _if_it_stays(command: Callable[..., Receipt], **arguments: Any) -> None:
    """A command on a device, if that has not left the registry."""
    try:
        command(**arguments)
    except Conflict:
        raise
    except Refusal:
        return


def _post(process: Process, village: Village) -> None:
    session = _session(process, village)
    claim_id = claim_id_of(ACTIVITY, session.id, session.device_id)
    if village.log.find(RewardClaim, claim_id) is not None:
        village.tokenomics.distribute_rewards(batch_id=process.step_id("post"), claim_ids=[claim_id])
