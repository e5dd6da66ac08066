"""Incidents: what an operator may say of one, and when the rules open and end them."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Refusal
from domain.kernel.time import utc
from domain.monitoring.incident import Incident, IncidentAlreadyAcknowledged, IncidentResolved, incident_id_of
from domain.monitoring.rules import RULES, Measure, Rule, Watch
from tests.facts import assert_replays, facts_of, names_of, refuses

RULE = Rule("lag", "lag_s", "warning", "it is behind", limit=10.0, clear=5.0, for_ms=2_000, clear_ms=3_000)
KEY = ("lag", "wallets")
START = utc(2026, 1, 1)


@pytest.fixture
def incident() -> Incident:
    return opened()


def opened() -> Incident:
    return Incident(
        incident_id=incident_id_of("lag", "wallets", 1),
        rule="lag",
        subject="wallets",
        number=1,
        severity="warning",
        summary="it is behind",
        value=12.5,
        limit=10.0,
    )


def test_it_is_opened_acknowledged_and_resolved_each_with_its_words(incident: Incident) -> None:
    incident.acknowledge("ada looks")
    incident.resolve("restarted it")
    about = {"incident_id": incident.id, "rule": "lag", "subject": "wallets"}
    assert facts_of(incident)[1:] == [
        (Incident.Acknowledged, about | {"note": "ada looks"}),
        (Incident.Resolved, about | {"reason": "restarted it"}),
    ]
    assert_replays(incident)


def test_it_is_acknowledged_once_and_over_when_it_is_resolved(incident: Incident) -> None:
    incident.acknowledge("ada looks")
    with refuses(IncidentAlreadyAcknowledged, incident):
        incident.acknowledge("bob looks")
    incident.resolve("mended")
    for ask in (incident.acknowledge, incident.resolve):
        with refuses(IncidentResolved, incident):
            ask("again")


@given(st.lists(st.sampled_from([Incident.acknowledge, Incident.resolve]), max_size=8))
def test_whatever_is_asked_each_thing_happens_at_most_once_and_resolved_is_last(
    asked: list[Callable[[Incident, str], None]],
) -> None:
    incident = opened()
    for ask in asked:
        before = len(incident.pending_events)
        try:
            ask(incident, "why")
        except Refusal:
            assert len(incident.pending_events) == before
    names = names_of(incident)
    assert len(set(names)) == len(names)
    assert "Resolved" not in names[:-1]
    assert_replays(incident)


def test_every_occurrence_has_an_id_of_its_own_that_everybody_knows() -> None:
    ids: set[UUID] = {incident_id_of(rule, subject, n) for rule in "ab" for subject in "cd" for n in (1, 2)}
    assert len(ids) == 8
    assert incident_id_of("a", "c", 1) in ids


class Looking:
    """A watch over one subject, and the incident it has opened."""

    def __init__(self) -> None:
        self.watch, self.at, self.is_open = Watch([RULE]), 0, False
        self.said: list[tuple[int, str]] = []

    def sees(self, seconds: int, value: float | None) -> None:
        self.at += seconds
        measures = [] if value is None else [Measure("lag_s", "wallets", value)]
        verdict = self.watch.judge(measures, [KEY] if self.is_open else [], START + timedelta(seconds=self.at))
        assert len(verdict.opened) + len(verdict.over) <= 1
        if verdict.opened or verdict.over:
            assert self.is_open == bool(verdict.over)
            self.is_open = not self.is_open
            self.said.append((self.at, "opened" if self.is_open else "over"))


def test_it_opens_when_the_limit_was_passed_for_long_enough_and_ends_when_clear_for_long_enough() -> None:
    looking = Looking()
    for seconds, value in ((0, 11), (1, 11), (1, 11), (1, 7), (60, 7), (1, 5), (2, 4), (1, 4)):
        looking.sees(seconds, value)
    assert looking.said == [(2, "opened"), (67, "over")]


def test_a_value_that_swings_opens_nothing_and_ends_nothing() -> None:
    looking = Looking()
    for value in (11, 9) * 10:
        looking.sees(1, value)
    assert looking.said == []
    for _ in range(3):
        looking.sees(1, 11)
    for value in (4, 11) * 10:
        looking.sees(1, value)
    assert [what for _, what in looking.said] == ["opened"]


def test_what_is_not_measured_any_more_is_clear() -> None:
    looking = Looking()
    for value in (11, 11, 11, None, None, None, None):
        looking.sees(1, value)
    assert [what for _, what in looking.said] == ["opened", "over"]


@given(st.lists(st.tuples(st.integers(1, 4), st.none() | st.floats(0, 20)), max_size=60))
def test_incidents_alternate_and_each_has_had_its_time(seen: list[tuple[int, float | None]]) -> None:
    looking, values = Looking(), list[tuple[int, float]]()
    for seconds, value in seen:
        looking.sees(seconds, value)
        values.append((looking.at, RULE.clear if value is None else value))
    assert [what for _, what in looking.said] == (["opened", "over"] * len(values))[: len(looking.said)]
    for at, what in looking.said:
        needed = (RULE.for_ms if what == "opened" else RULE.clear_ms) // 1_000
        since = [value for when, value in values if at - needed <= when <= at]
        assert all(value > RULE.limit if what == "opened" else value <= RULE.clear for value in since)


def test_the_rules_have_names_of_their_own_and_measure_something_named() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.summary and rule.severity in ("warning", "critical") for rule in RULES)
