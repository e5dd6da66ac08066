"""asOf of training: sessions and rounds as they were, while a session goes on."""

from typing import Any
from uuid import uuid4

from tests.api.training_site import Site, site

__all__ = ["site"]

QUERY = """query($id: UUID!, $at: AsOf) {
    trainingSessions(first: 10, asOf: $at) { totalCount edges { cursor node {
        sessionId name state currentRound completedRounds modelHash endedAt position } } }
    trainingSession(sessionId: $id, asOf: $at) { state currentRound completedRounds modelHash reason position }
    rounds(sessionId: $id, first: 10, asOf: $at) { totalCount edges { cursor node {
        number state selected accepted participants accuracy loss durationMs modelHash completedAt position } } }
}"""


def data(answer: dict[str, Any]) -> Any:
    assert "errors" not in answer, answer
    return answer["data"]


def test_sessions_and_rounds_are_answered_as_they_were(site: Site) -> None:
    owner, devices = uuid4(), site.devices(3)
    session_id = str(site.start(owner))
    seen = []

    def look() -> None:
        site.settle()
        seen.append((site.log.head(), data(site.ask(QUERY, owner, id=session_id))))

    look()
    for index, device in enumerate(devices):
        work = site.assignment(device)
        assert work is not None
        site.submit(device, site.update(device, work["round_id"], seed=index))
        look()
    site.post("abandon_training", {"session_id": session_id, "reason": "enough"}, owner)
    look()
    assert seen[0][1]["rounds"]["edges"][0]["node"]["state"] == "open"
    assert seen[-1][1]["trainingSession"]["state"] == "abandoned"
    for position, live in seen:
        assert data(site.ask(QUERY, owner, id=session_id, at={"position": position})) == live
    nobody = data(site.ask(QUERY, uuid4(), id=session_id, at={"position": seen[-1][0]}))
    assert (nobody["trainingSession"], nobody["rounds"]["totalCount"]) == (None, 0)


def test_lists_inside_a_node_of_the_past_are_refused_by_name(site: Site) -> None:
    session_id = str(site.start())
    site.settle()
    query = "query($id: UUID!, $at: AsOf) { trainingSession(sessionId: $id, asOf: $at) { roundHistory { number } } }"
    answer = site.ask(query, id=session_id, at={"position": site.log.head()})
    assert answer["errors"][0]["extensions"]["code"] == "not_of_the_past"
