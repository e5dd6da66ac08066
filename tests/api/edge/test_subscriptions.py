"""The feed over real sockets: nothing lost, nothing doubled, order kept; slow and unproven clients."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.edge import feed as feeds
from api.edge import gate, metrics
from api.edge.gate import COOKIE
from domain.kernel.event_log import EventLog
from domain.kernel.scope import new_scope, within
from infrastructure.database import Database
from tests.ledger import Ledger

from .conftest import Edge, running
from .socket_client import SocketClient, socket

EVENTS = """
subscription Events($after: Position, $topics: [String!], $streams: [UUID!]) {
  events(after: $after, topics: $topics, streams: $streams) { position topic stream state }
}
"""


class Writer:
    """Records events as the API would."""

    def __init__(self, edge: Edge) -> None:
        self.ledger = Ledger(edge.log)
        self.account = uuid4()
        with within(new_scope("operator:ada")):
            self.ledger.open(account_id=self.account)

    def deposit(self, count: int) -> None:
        for _ in range(count):
            with within(new_scope("operator:ada")):
                self.ledger.deposit_to_open(account_id=self.account, grains=1)


@pytest.fixture
def writer(edge: Edge) -> Writer:
    return Writer(edge)


@pytest.fixture
def client(edge: Edge) -> Iterator[SocketClient]:
    with socket(edge.url, {"token": edge.token()}) as client:
        yield client


def wait_until_subscribed(edge: Edge) -> None:
    """Return once the feed has a subscriber: what is recorded from here on reaches it."""
    ends = time.monotonic() + 60
    while "village_subscriptions 0.0" in edge.client.get("/metrics").text:
        assert time.monotonic() < ends, "nobody has subscribed"
        time.sleep(0.01)


def positions(client: SocketClient, count: int) -> list[int]:
    return [client.next()["events"]["position"] for _ in range(count)]


def test_a_subscription_starts_now_unless_told_otherwise(client: SocketClient, writer: Writer, edge: Edge) -> None:
    writer.deposit(3)
    client.subscribe(EVENTS)
    wait_until_subscribed(edge)
    writer.deposit(2)
    assert positions(client, 2) == [5, 6]


def test_a_subscription_resumes_after_a_position_and_goes_on_live(client: SocketClient, writer: Writer) -> None:
    writer.deposit(5)
    client.subscribe(EVENTS, after=2)
    assert positions(client, 4) == [3, 4, 5, 6]
    writer.deposit(3)
    assert positions(client, 3) == [7, 8, 9]


def test_a_client_that_is_cut_off_again_and_again_misses_nothing_and_sees_nothing_twice(
    edge: Edge, writer: Writer
) -> None:
    total = 301
    writing = threading.Thread(target=writer.deposit, args=(total - 1,))
    writing.start()
    seen: list[int] = []
    while len(seen) < total:
        with socket(edge.url, {"token": edge.token()}) as client:
            client.subscribe(EVENTS, after=seen[-1] if seen else 0)
            seen += positions(client, min(41, total - len(seen)))
    writing.join()
    assert seen == list(range(1, total + 1))


def test_many_subscribers_of_a_busy_log_see_all_of_it_in_order(edge: Edge, writer: Writer) -> None:
    total, seen = 400, {name: list[int]() for name in range(6)}

    def follow(name: int) -> None:
        with socket(edge.url, {"token": edge.token()}) as client:
            client.subscribe(EVENTS, after=0)
            seen[name] += positions(client, total)

    followers = [threading.Thread(target=follow, args=(name,)) for name in seen]
    for follower in followers[:3]:
        follower.start()
    writing = threading.Thread(target=writer.deposit, args=(total - 1,))
    writing.start()
    for follower in followers[3:]:
        time.sleep(0.05)
        follower.start()
    for thread in (*followers, writing):
        thread.join(30)
    assert all(found == list(range(1, total + 1)) for found in seen.values())


def test_topics_and_streams_choose(client: SocketClient, edge: Edge, writer: Writer) -> None:
    other = Writer(edge)
    client.subscribe(EVENTS, "topics", after=0, topics=["testing.Account.Opened"])
    assert positions(client, 2) == [1, 2]
    client.send(id="topics", type="complete")
    client.subscribe(EVENTS, "streams", after=0, streams=[str(other.account)])
    writer.deposit(1)
    other.deposit(1)
    first, second = client.next()["events"], client.next()["events"]
    assert (first["position"], second["position"]) == (2, 4)
    assert UUID(second["stream"]) == other.account
    assert second["state"] == {"grains": 1}


def test_a_slow_client_is_sent_back_to_the_log_and_still_gets_every_event(
    edge: Edge, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "BATCH", 20)
    monkeypatch.setattr(feeds, "QUEUED_BATCHES", 1)
    before = metrics.RESYNCS._value.get()
    with socket(edge.url, {"token": edge.token()}, slow=True) as client:
        client.subscribe(EVENTS.replace("{ position", "{ " + "".join(f"p{i}: state " for i in range(9)) + "position"))
        wait_until_subscribed(edge)
        note = "x" * 4_000
        for _ in range(600):
            with within(new_scope("operator:" + note[:50])):
                writer.ledger.open(account_id=uuid4(), owner=note)
        assert positions(client, 600) == list(range(2, 602))
    assert metrics.RESYNCS._value.get() > before


@pytest.mark.parametrize(("after", "code"), [(99, "position_ahead"), (-1, "graphql_invalid"), ("x", "graphql_invalid")])
def test_a_position_that_is_none_is_refused_by_name(client: SocketClient, after: object, code: str) -> None:
    client.subscribe(EVENTS, after=after)
    message = client.receive()
    errors = message["payload"] if message["type"] == "error" else message["payload"]["errors"]
    assert [error["extensions"]["code"] for error in errors] == [code]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("subscription { nothing }", "graphql_invalid"),
        ("subscription {", "graphql_syntax"),
        ("subscription { events(after: 0) { " + "topic " * 1_600 + "} }", "query_too_long"),
    ],
)
def test_a_wrong_document_is_answered_by_an_error_and_the_socket_lives_on(
    client: SocketClient, writer: Writer, query: str, code: str
) -> None:
    client.subscribe(query)
    message = client.receive()
    assert message["type"] == "error"
    assert [error["extensions"]["code"] for error in message["payload"]] == [code]
    client.subscribe(EVENTS, after=0)
    assert positions(client, 1) == [1]


@pytest.mark.parametrize("parameters", [{}, {"token": "guess"}, {"authorization": "Bearer guess"}, {"token": 5}])
def test_a_socket_without_proof_is_closed(edge: Edge, parameters: dict[str, object]) -> None:
    with socket(edge.url, init=False) as client:
        client.send(type="connection_init", payload=parameters)
        with pytest.raises(ConnectionClosed) as closed:
            client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4403


def test_a_socket_that_skips_the_proof_is_closed(edge: Edge) -> None:
    with socket(edge.url, init=False) as client:
        client.subscribe(EVENTS)
        with pytest.raises(ConnectionClosed) as closed:
            client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


class TestRates:
    @pytest.fixture
    def rates(self) -> dict[str, int]:
        return {"rate_window_seconds": 30, "rate_operator": 2}

    def test_operations_on_a_socket_count_as_requests(self, client: SocketClient) -> None:
        for _ in range(2):
            client.subscribe("{ leaf { name } }")
            assert client.next() == {"leaf": {"name": "operator:ada"}}
            assert client.receive()["type"] == "complete"
        client.subscribe("{ leaf { name } }")
        message = client.receive()
        assert message["type"] == "error"
        assert message["payload"][0]["extensions"]["code"] == "rate_limited"


def test_a_principal_has_so_many_sockets_at_once_and_a_closed_one_makes_room(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gate.MAX_SOCKETS, "member", 2)
    mine: dict[str, object] = {"token": edge.token("member", str(uuid4()))}
    another: dict[str, object] = {"token": edge.token("member", str(uuid4()))}
    with socket(edge.url, mine), socket(edge.url, another):
        with socket(edge.url, mine):
            assert not admitted(edge, mine)
        # The server learns of a closed socket a moment after the client.
        ends = time.monotonic() + 60
        while not admitted(edge, mine):
            assert time.monotonic() < ends, "a closed socket still counts"


def admitted(edge: Edge, parameters: dict[str, object]) -> bool:
    """Whether one more socket is let in."""
    with socket(edge.url, init=False) as client:
        client.send(type="connection_init", payload=parameters)
        try:
            return client.receive() == {"type": "connection_ack"}
        except ConnectionClosed:
            return False


def test_the_log_is_not_for_members(edge: Edge) -> None:
    with socket(edge.url, {"token": edge.token("member", str(uuid4()))}) as client:
        client.subscribe(EVENTS)
        assert "forbidden" in str(client.receive())


def test_a_page_of_this_origin_may_use_its_cookie_and_another_site_may_not(edge: Edge, writer: Writer) -> None:
    cookie = {"Cookie": f"{COOKIE}={edge.token()}"}
    with socket(edge.url, origin=edge.url, headers=cookie) as client:
        client.subscribe(EVENTS, after=0)
        assert positions(client, 1) == [1]
    with pytest.raises(InvalidStatus) as refused, socket(edge.url, origin="https://evil.example", headers=cookie):
        pass
    assert refused.value.response.status_code == 403


def test_a_subscription_ends_with_the_proof_it_began_with(edge: Edge, writer: Writer) -> None:
    token = edge.tokens.issue(role="operator", subject="ada", expires_in=timedelta(seconds=6))
    with socket(edge.url, {"token": token}) as client:
        client.subscribe(EVENTS, after=0)
        assert positions(client, 1) == [1]
        message = client.receive()
        assert message["payload"]["errors"][0]["extensions"]["code"] == "token_expired"
        assert client.receive() == {"id": "1", "type": "complete"}


def test_the_feed_goes_on_after_its_connection_to_the_database_breaks(
    client: SocketClient, writer: Writer, edge: Edge
) -> None:
    client.subscribe(EVENTS, after=0)
    assert positions(client, 1) == [1]
    with psycopg.connect(edge.ctx.database.url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    writer.deposit(2)
    assert positions(client, 2) == [2, 3]


def test_server_sent_events_carry_the_same_feed(edge: Edge, writer: Writer) -> None:
    writer.deposit(2)
    headers = edge.bearer() | {"Accept": "text/event-stream"}
    body = {"query": EVENTS, "variables": {"after": 1}}
    found: list[str] = []
    with edge.client.stream("POST", "/graphql", json=body, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if '"position":' in line:
                found.append(line)
            if len(found) == 2:
                break
    assert '"position":2' in found[0]
    assert '"position":3' in found[1]


def test_open_subscriptions_do_not_hold_up_a_stop(database: Database, log: EventLog, tmp_path: Path) -> None:
    with running(database, log, tmp_path) as edge:
        Writer(edge)
        body, headers = {"query": EVENTS, "variables": {"after": 0}}, edge.bearer() | {"Accept": "text/event-stream"}
        with socket(edge.url, {"token": edge.token()}) as client:
            client.subscribe(EVENTS, after=0)
            assert positions(client, 1) == [1]
            with edge.client.stream("POST", "/graphql", json=body, headers=headers) as answer:
                lines = answer.iter_lines()
                assert any('"position":1' in line for line in lines)
                edge.stop()
                stopped = time.monotonic()
                assert any("event: complete" in line for line in lines), "the stream was ended, not cut"
            assert time.monotonic() - stopped < 20
