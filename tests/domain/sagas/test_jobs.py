"""Jobs under a contract: admitted while they fit, used once however often it is told, ended with their contract."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.marketplace.job import Job, JobReportInvalid, JobUnknown
from domain.marketplace.states import WrongContractState, WrongParty
from domain.marketplace.work import JobInvalid, JobLimits, JobSpec
from domain.marketplace.workload import MAX_OPEN, JobBeyondContract, Workload
from tests.trading import HOUR_MS

from .paying import FUNDS, Market

RESULT = "a" * 64
SPEC = JobSpec(
    "hash_search",
    {"seed": 1, "start": 0, "count": 10, "difficulty_bits": 1},
    {},
    JobLimits(cpu_ms=60_000, wall_ms=120_000, memory_mb=128),
)


def submitted(market: Market, contract_id: UUID, spec: JobSpec = SPEC, **changes: Any) -> UUID:
    asked = {"job_id": uuid4(), "contract_id": contract_id, "customer_id": market.customer_id, "spec": spec}
    receipt = market.ask(market.market.submit_job, **asked | changes)
    assert receipt.id is not None
    return receipt.id


def reported(market: Market, job_id: UUID, ms: int) -> bool:
    asked = {"job_id": job_id, "device_id": market.device_id, "cumulative_ms": ms}
    return bool(market.ask(market.market.report_job_usage, **asked).extra["wanted"])


def ended(market: Market, job_id: UUID, ms: int, **changes: Any) -> None:
    asked: dict[str, Any] = {
        "job_id": job_id, "device_id": market.device_id, "outcome": "succeeded", "reason": "", "cumulative_ms": ms,
        "wall_ms": ms, "result_hash": RESULT,
    }  # fmt: skip
    market.ask(market.market.end_job, **asked | changes)


def job(market: Market, job_id: UUID) -> Job:
    return market.log.load(Job, job_id)


def test_what_a_job_uses_is_usage_of_its_contract_and_paid(market: Market) -> None:
    contract_id = market.running()
    job_id = submitted(market, contract_id)
    market.stage.wait(seconds=30)
    assert reported(market, job_id, 10_000)
    assert reported(market, job_id, 4_000)  # late
    ended(market, job_id, 20_000)
    ended(market, job_id, 30_000)  # again
    assert not reported(market, job_id, 40_000)
    assert (job(market, job_id).outcome, market.contract(contract_id).used_ms) == ("succeeded", 20_000)
    market.ask(market.market.complete_contract, contract_id=contract_id, customer_id=market.customer_id)
    market.stage.until_quiet()
    assert market.settled(contract_id).charged_grains == 200_000
    market.assert_sound()


def test_a_job_is_never_charged_beyond_its_limit_or_the_time_that_has_passed(market: Market) -> None:
    contract_id = market.running()
    job_id = submitted(market, contract_id)
    market.stage.wait(seconds=1)
    reported(market, job_id, 50_000)
    assert market.contract(contract_id).used_ms == 1_000
    market.stage.wait(minutes=5)
    other = submitted(market, contract_id)
    reported(market, other, 90_000)
    assert job(market, other).used_ms == 60_000


def test_open_jobs_together_fit_into_what_is_left(market: Market) -> None:
    contract_id = market.running()
    half = replace(SPEC, limits=replace(SPEC.limits, cpu_ms=HOUR_MS // 2))
    first = submitted(market, contract_id, half)
    submitted(market, contract_id, half)
    with pytest.raises(JobBeyondContract):
        submitted(market, contract_id, SPEC)
    ended(market, first, 0, outcome="failed", reason="crashed", result_hash=None)
    submitted(market, contract_id, SPEC)


def test_a_contract_has_a_bounded_number_of_open_jobs(market: Market) -> None:
    contract_id = market.running()
    short = replace(SPEC, limits=replace(SPEC.limits, cpu_ms=1))
    for _ in range(MAX_OPEN):
        submitted(market, contract_id, short)
    with pytest.raises(JobBeyondContract):
        submitted(market, contract_id, short)


def test_the_end_of_a_contract_is_the_end_of_its_jobs(market: Market) -> None:
    contract_id = market.running()
    job_id = submitted(market, contract_id)
    market.ask(market.market.cancel_contract, contract_id=contract_id, customer_id=None, reason="enough")
    market.stage.run()
    assert market.names(job_id) == ["Submitted", "Ended"]
    assert not reported(market, job_id, 1_000)
    assert not market.log.load(Workload, Workload.create_id(contract_id)).open


def test_a_customer_cancels_its_own_job(market: Market) -> None:
    job_id = submitted(market, market.running())
    with pytest.raises(JobUnknown):
        market.ask(market.market.cancel_job, job_id=job_id, customer_id=market.provider_id)
    market.ask(market.market.cancel_job, job_id=job_id, customer_id=market.customer_id)
    assert job(market, job_id).outcome == "cancelled"


def test_only_the_customer_of_an_active_contract_submits(market: Market) -> None:
    contract_id = market.running()
    with pytest.raises(WrongParty):
        submitted(market, contract_id, customer_id=market.provider_id)
    market.ask(market.market.complete_contract, contract_id=contract_id, customer_id=None)
    with pytest.raises(WrongContractState):
        submitted(market, contract_id)


def test_only_the_device_of_the_contract_reports(market: Market) -> None:
    job_id = submitted(market, market.running())
    with pytest.raises(JobUnknown):
        ended(market, job_id, 1, device_id=uuid4())
    with pytest.raises(JobReportInvalid):
        ended(market, job_id, 1, result_hash=None)
    with pytest.raises(JobReportInvalid):
        ended(market, job_id, 1, outcome="failed", reason="bored", result_hash=None)


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, job_type="mine"),
        replace(SPEC, parameters={"seed": 1}),
        replace(SPEC, parameters=SPEC.parameters | {"difficulty_bits": 0}),
        replace(SPEC, inputs={"model": RESULT}),
        replace(SPEC, limits=replace(SPEC.limits, cpu_ms=0)),
        replace(SPEC, limits=replace(SPEC.limits, memory_mb=1)),
    ],
)
def test_a_job_is_of_a_known_type_within_bounds(market: Market, spec: JobSpec) -> None:
    with pytest.raises(JobInvalid):
        submitted(market, market.running(), spec)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 100_000)), max_size=8))
def test_reports_in_any_order_charge_each_millisecond_once(market: Market, reports: list[tuple[int, int]]) -> None:
    market.customer_id = market.given(FUNDS)
    contract_id = market.running()
    jobs = [submitted(market, contract_id) for _ in range(2)]
    market.stage.wait(minutes=10)
    best = [0, 0]
    for which, ms in reports:
        reported(market, jobs[which], ms)
        best[which] = max(best[which], min(ms, SPEC.limits.cpu_ms))
    assert market.contract(contract_id).used_ms == sum(best)
    market.ask(market.market.cancel_contract, contract_id=contract_id, customer_id=None, reason="enough")
    market.stage.run()
