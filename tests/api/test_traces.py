"""A command's trace, from the caller through saga steps and folds, as a collector receives it."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from domain.kernel import derive
from infrastructure import traces
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader
from tests.api.office import Office, open_office
from tests.collector import Collector, collecting

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        traces.configure(collector.url, "office")
        yield collector
        traces.flush()
        traces.configure(None, "office")


@pytest.fixture
def office(database: Database, database_url: str, tmp_path: Path) -> Iterator[Office]:
    yield from open_office(database_url, database, tmp_path)


def test_a_command_joins_its_caller_s_trace_and_what_folds_its_facts_hangs_below_it(
    office: Office, collector: Collector
) -> None:
    headers = office.headers() | {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    body = {"name": "balances", "reason": "a drill"}
    answer = office.client.post("/v1/monitoring/pause_projection", json=body, headers=headers)
    assert (answer.status_code, answer.headers["Correlation-Id"]) == (200, str(UUID(TRACE)))
    office.settle()
    traces.flush()
    spans = collector.of(TRACE)
    command, fold = spans["pause_projection"], spans["fold projection_controls"]
    assert (command.parent, fold.parent, command.service) == (SPAN, command.id, "village-office")


def test_a_step_of_a_saga_hangs_below_the_command_that_caused_it_and_its_fold_below_the_step(
    office: Office, collector: Collector
) -> None:
    account = office.opened("process")
    office.settle()
    traces.flush()
    with office.database.connect(Role.READER) as connection:
        opened = LogReader(connection).of_streams([account])[0]
    own = [span for span in collector.spans if span.trace == opened.correlation_id.hex]
    (step,) = [span for span in own if span.id == derive_id(opened.event_id)]
    assert (step.name, step.parent) == ("delivery", opened.command_id.hex[16:])
    children = {span.name for span in own if span.parent == step.id}
    assert "fold sagas" in children


def derive_id(event_id: UUID) -> str:
    """The span of the saga step that an event caused."""
    return derive("saga.step", "delivery", event_id).hex[16:]


def test_a_traceparent_that_is_wrong_or_of_another_correlation_is_passed_over(office: Office) -> None:
    for wrong in ("", "00-1-2-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-01x"):
        assert traces.parse(wrong) is None, wrong
    given = uuid4()
    headers = office.headers() | {"traceparent": f"00-{TRACE}-{SPAN}-01", "Correlation-Id": str(given)}
    answer = office.client.post(
        "/v1/monitoring/pause_projection", json={"name": "balances", "reason": "a drill"}, headers=headers
    )
    assert answer.headers["Correlation-Id"] == str(given)


def test_a_collector_that_is_away_holds_nobody_up(office: Office) -> None:
    traces.configure("http://127.0.0.1:1/v1/traces", "office")
    try:
        answer = office.post("monitoring/pause_projection", {"name": "balances", "reason": "a drill"})
        assert answer.status_code == 200
    finally:
        traces.configure(None, "office")


def test_a_collector_that_is_away_is_told_without_its_password(caplog: pytest.LogCaptureFixture) -> None:
    traces.configure("http://me:sesame@127.0.0.1:1/v1/traces", "tests")
    try:
        with caplog.at_level("DEBUG"):
            with traces.span("a step", uuid4(), uuid4()):
                pass
            traces.flush()
    finally:
        traces.configure(None, "tests")
    assert "127.0.0.1" in caplog.text
    assert "sesame" not in caplog.text
