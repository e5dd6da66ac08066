"""Reward a harvest session: judge its audit, claim what it has earned, post the claim when a budget pays it."""

from datetime import datetime, timedelta
from uuid import UUID

from domain.harvest.session import HarvestSession
from domain.kernel import Conflict, Fact, Refusal, derive, scope
from domain.tokenomics.pricing import BASIS, MAX_VERIFIED_MS, Activity
from domain.tokenomics.reward_claim import claim_id_of
from domain.tokenomics.reward_epoch import EpochBudgetExhausted

from .deadline import Deadlines
from .plan import Plan, Step
from .process import Process
from .village import Village

ACTIVITY = "harvest_contribution"
SERVICE = "harvest"
ANSWER_WITHIN = timedelta(minutes=10)
"""How long after its end a session's audit may be answered."""
POSTING_PAUSE_MS = 6 * 3_600_000


class RewardHarvest(Plan):
    """Begins when a session is closed. One that fails its audit earns nothing, and its device gets bad evidence.

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
    village.harvest.judge_audit(session_id=_session(process, village).id)


def _accrue(process: Process, village: Village) -> None:
    """One claim, and evidence for the device: good for time that counts, bad for an audit that failed."""
    session = _session(process, village)
    passed, verified_ms = session.audit is not False, session.contribution.verified_ms
    claim_id, grains = None, 0
    if passed and verified_ms and session.quality_bp:
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
    cause = scope().causation_id
    assert cause is not None
    try:
        village.device_registry.update_reputation(
            device_id=session.device_id, service=SERVICE, good=good, weight_bp=BASIS, cause_event_id=cause
        )
    except Conflict:
        raise
    except Refusal:
        return  # a device that has left the registry has no reputation to keep


def _post(process: Process, village: Village) -> None:
    session = _session(process, village)
    claim_id = claim_id_of(ACTIVITY, session.id, session.device_id)
    if session.audit is not False and session.contribution.verified_ms and session.quality_bp:
        village.tokenomics.distribute_rewards(batch_id=process.step_id("post"), claim_ids=[claim_id])
