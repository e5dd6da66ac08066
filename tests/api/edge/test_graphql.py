"""GraphQL over HTTP: bounds, coded errors, connections, waiting for a position."""

import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from graphql import build_client_schema, get_introspection_query

from domain.kernel.scope import new_scope, within
from infrastructure import archive
from infrastructure.archive import archive_store, read_archive_at
from infrastructure.archiver import archive_closed
from infrastructure.sealing_keys import load_sealing_keys
from tests.ledger import Ledger
from tests.running import opened
from workers.log_sealer import LogSealer

from .conftest import Edge

EVENTS = """
query Events($first: Int!, $after: String, $topics: [String!], $stream: UUID) {
  events(first: $first, after: $after, topics: $topics, stream: $stream) {
    edges { cursor node { position topic stream version actor recordedAt state } }
    pageInfo { hasNextPage endCursor }
  }
}
"""


def record(edge: Edge, count: int) -> None:
    """Open one account and deposit into it: `count` events."""
    ledger, account = Ledger(edge.log), uuid4()
    with within(new_scope("operator:ada")):
        ledger.open(account_id=account)
    for grains in range(1, count):
        with within(new_scope("operator:ada")):
            ledger.deposit_to_open(account_id=account, grains=grains)


def codes(answer: dict[str, Any]) -> list[str]:
    return [error["extensions"]["code"] for error in answer["errors"]]


def test_a_page_continues_where_the_last_one_ended_until_there_is_no_more(edge: Edge) -> None:
    record(edge, 7)
    seen: list[int] = []
    after, more = None, True
    while more:
        page = edge.ask(EVENTS, first=3, after=after)["data"]["events"]
        seen += [found["node"]["position"] for found in page["edges"]]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_events_tell_their_envelope_and_can_be_chosen(edge: Edge) -> None:
    record(edge, 3)
    page = edge.ask(EVENTS, first=10, topics=["testing.Account.Deposited"])["data"]["events"]
    assert [found["node"]["state"] for found in page["edges"]] == [{"grains": 1}, {"grains": 2}]
    node = page["edges"][0]["node"]
    assert (node["actor"], node["version"]) == ("operator:ada", 2)
    other = edge.ask(EVENTS, first=10, stream=str(uuid4()))["data"]["events"]
    assert other == {"edges": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}


def test_a_hundred_topics_choose_and_no_more(edge: Edge) -> None:
    assert "errors" not in edge.ask(EVENTS, first=1, topics=["testing.Account.Opened"] * 100)
    assert codes(edge.ask(EVENTS, first=1, topics=["testing.Account.Opened"] * 101)) == ["filter_too_long"]


def test_a_total_is_counted_when_asked_for(edge: Edge) -> None:
    record(edge, 5)
    answer = edge.ask("{ events(first: 2) { totalCount edges { node { position } } } }")
    assert answer["data"]["events"]["totalCount"] == 5
    assert len(answer["data"]["events"]["edges"]) == 2


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "bm90IGpzb24", "WyJldmVudHMiLCJ4Il0", "WyJvdGhlciIsMV0", "a" * 600])
def test_a_bad_cursor_is_refused_by_name(steady: Edge, cursor: str) -> None:
    assert codes(steady.ask(EVENTS, first=1, after=cursor)) == ["cursor_invalid"]


@pytest.mark.parametrize("first", [0, -1, 101])
def test_a_page_has_1_to_100_rows(steady: Edge, first: int) -> None:
    assert codes(steady.ask(EVENTS, first=first)) == ["page_size_invalid"]


def test_first_is_mandatory(steady: Edge) -> None:
    answer = steady.ask("{ events { totalCount } }")
    assert codes(answer) == ["graphql_invalid"]
    assert "first" in answer["errors"][0]["message"]


def test_the_log_is_for_operators(steady: Edge) -> None:
    for query in ("{ events(first: 1) { totalCount } }", "{ projections { name } }"):
        assert codes(steady.ask(query, steady.bearer("member", str(uuid4())))) == ["forbidden"]


def test_a_device_may_ask_with_its_signature(steady: Edge) -> None:
    device = steady.enrol()
    answer = steady.client.post("/graphql", json={"query": "{ leaf { name } }"}, auth=device.auth)
    assert answer.json() == {"data": {"leaf": {"name": f"device:{device.device_id}"}}}


def nested(depth: int) -> str:
    return "{ leaf " + "{ again " * (depth - 2) + "{ name }" + " }" * (depth - 2) + " }"


def test_a_query_of_ten_levels_is_answered_and_a_deeper_one_refused(steady: Edge) -> None:
    assert "errors" not in steady.ask(nested(10))
    assert codes(steady.ask(nested(11))) == ["query_too_deep"]
    assert codes(steady.ask(nested(200))) == ["query_too_deep"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{ " + " ".join(f"a{i}: leaf {{ name }}" for i in range(16)) + " }", "too_many_aliases"),
        ("{ leaf { name " + "@include(if: true) " * 6 + "} }", "too_many_directives"),
        ("{ leaf { " + "name " * 301 + "} }", "too_many_fields"),
        ("{ leaf { " + "name " * 1_600 + "} }", "query_too_long"),
        ("{ leaf { name }", "graphql_syntax"),
        ("{ leaf { nothing } }", "graphql_invalid"),
        ("query ($a: Int!) { leaf { name } }", "graphql_invalid"),
        ("mutation { leaf }", "graphql_invalid"),
    ],
)
def test_a_document_beyond_a_bound_or_wrong_is_refused_by_name(steady: Edge, query: str, code: str) -> None:
    assert set(codes(steady.ask(query))) == {code}


def test_the_bounds_count_what_fragments_expand_to_and_are_quick_about_it(steady: Edge) -> None:
    chain = " ".join(f"fragment F{i} on Leaf {{ ...F{i + 1} ...F{i + 1} }}" for i in range(60))
    bomb = f"{{ leaf {{ ...F0 }} }} {chain} fragment F60 on Leaf {{ name }}"
    started = time.monotonic()
    assert codes(steady.ask(bomb)) == ["too_many_fields"]
    assert time.monotonic() - started < 20, "an expansion of 2^60 fields would take for ever"
    circle = "{ leaf { ...A } } fragment A on Leaf { ...B } fragment B on Leaf { ...A }"
    assert set(codes(steady.ask(circle))) == {"graphql_invalid"}


def test_a_misspelt_field_is_not_answered_with_the_names_of_others(steady: Edge) -> None:
    (error,) = steady.ask("{ leef { name } }")["errors"]
    assert "leaf" not in error["message"]


def test_standard_introspection_passes_the_bounds(steady: Edge) -> None:
    answer = steady.ask(get_introspection_query())
    assert "Subscription" in build_client_schema(answer["data"]).type_map


def test_our_own_mistake_in_a_resolver_is_masked(steady: Edge) -> None:
    answer = steady.ask("{ broken leaf { name } }")
    assert answer["data"] == {"broken": None, "leaf": {"name": "operator:ada"}}
    assert codes(answer) == ["internal_error"]
    assert "swordfish" not in str(answer)


def test_a_query_that_takes_too_long_is_stopped_by_name_and_the_next_one_answered(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.edge.context.QUERY_TIMEOUT_MS", 100)
    started = time.monotonic()
    assert codes(edge.ask("{ slow }")) == ["query_too_slow"]
    assert time.monotonic() - started < 15
    assert "errors" not in edge.ask("{ events(first: 1) { totalCount } }")


def test_a_query_whose_connection_was_lost_is_asked_again(edge: Edge) -> None:
    assert "errors" not in edge.ask("{ events(first: 1) { totalCount } }")
    with psycopg.connect(edge.ctx.database.url, autocommit=True) as connection:
        lost = connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'SELECT count(*) AS rows%'"
        ).fetchall()
    assert (True,) in lost
    assert "errors" not in edge.ask("{ events(first: 1) { totalCount } }")


TWO = "query A { leaf { name } } query B { waited(atLeast: null) }"


def test_which_of_several_operations_is_meant_must_be_said(steady: Edge) -> None:
    assert codes(steady.ask(TWO)) == ["graphql_invalid"]
    named = {"query": TWO, "operationName": "B"}
    assert steady.client.post("/graphql", json=named, headers=steady.bearer()).json() == {"data": {"waited": None}}
    for name in ("C", "!!", ""):
        unknown = steady.client.post("/graphql", json=named | {"operationName": name}, headers=steady.bearer())
        assert codes(unknown.json()) == ["graphql_invalid"]


def test_a_subscription_over_plain_http_is_refused_by_name(steady: Edge) -> None:
    body = {"query": "subscription { events { position } }"}
    answer = steady.client.post("/graphql", json=body, headers=steady.bearer())
    assert (answer.status_code, answer.json()["code"]) == (400, "graphql_request_invalid")
    assert "text/event-stream" in answer.json()["detail"]


def test_a_text_that_no_column_can_hold_is_refused_by_name(steady: Edge) -> None:
    query = '{ events(first: 1, topics: ["\\u0000"]) { totalCount } }'
    assert codes(steady.ask(query)) == ["value_out_of_reach"]
    variable = steady.client.post(
        "/graphql",
        json={"query": EVENTS, "variables": {"first": 1, "topics": ["\0"]}},
        headers=steady.bearer(),
    )
    assert (variable.status_code, variable.json()["code"]) == (400, "graphql_request_invalid")


def test_what_clients_get_wrong_is_not_logged_as_our_error(steady: Edge, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        steady.ask("{ nothing }")
    assert not caplog.records


@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b"\xff", b"{}", b'{"query": 5}', b'{"query": ""}'])
def test_a_request_that_is_not_graphql_is_refused_by_name(steady: Edge, body: bytes) -> None:
    headers = steady.bearer() | {"Content-Type": "application/json"}
    answer = steady.client.post("/graphql", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "graphql_request_invalid")


def test_the_modern_media_type_answers_request_errors_with_status_400_and_no_data(steady: Edge) -> None:
    headers = steady.bearer() | {"Accept": "application/graphql-response+json"}
    wrong = steady.client.post("/graphql", json={"query": "{ nothing }"}, headers=headers)
    assert (wrong.status_code, "data" in wrong.json()) == (400, False)
    assert wrong.headers["content-type"] == "application/graphql-response+json"
    right = steady.client.post("/graphql", json={"query": "{ leaf { name } }"}, headers=headers)
    assert (right.status_code, right.headers["content-type"]) == (200, "application/graphql-response+json")


def test_every_consumer_is_listed_with_its_lag(edge: Edge) -> None:
    record(edge, 4)
    with edge.ctx.database.writer.connection() as connection:
        connection.execute("INSERT INTO engine.cursors (name, position) VALUES ('deposits', 1)")
    answer = edge.ask("{ projections { name position head lag } }")
    assert answer["data"]["projections"] == [{"name": "deposits", "position": 1, "head": 4, "lag": 3}]


def test_a_query_waits_for_the_position_it_asks_for_and_not_for_ever(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move(position: int) -> None:
        with edge.ctx.database.writer.connection() as connection:
            connection.execute(
                "INSERT INTO engine.cursors (name, position) VALUES ('things', %s) "
                "ON CONFLICT (name, partition) DO UPDATE SET position = excluded.position",
                (position,),
            )

    query = "query ($at: Position) { waited(atLeast: $at) }"
    move(3)
    assert edge.ask(query, at=3)["data"]["waited"] == 3
    timer = threading.Timer(0.2, move, [9])
    timer.start()
    started = time.monotonic()
    assert edge.ask(query, at=9)["data"]["waited"] == 9
    assert time.monotonic() - started >= 0.15
    timer.join()
    monkeypatch.setattr("api.edge.graphql.MAX_WAIT_S", 0.1)
    assert codes(edge.ask(query, at=10)) == ["projection_behind"]
    assert codes(edge.ask(query, at=-1)) == ["graphql_invalid"]


def test_the_log_shows_what_is_in_the_archive(edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        opened(Ledger(edge.log))
    query = "{events(first: 10) {edges {node {position state}}}}"
    before = edge.ask(query)
    sealer = LogSealer(edge.ctx.database, lambda: load_sealing_keys(tmp_path, "village.test/log"))
    sealer.run_once()
    sealer.close()
    store = archive_store(None, tmp_path)
    far = datetime(2100, 1, 1, tzinfo=UTC)
    assert archive_closed(edge.ctx.database, store, ["testing.Account.Opened"], far).facts == 2
    monkeypatch.setattr(archive, "_archive", None)
    assert edge.ask(query)["errors"][0]["extensions"]["code"] == "archive_missing"
    read_archive_at(lambda: store)
    assert edge.ask(query) == before
