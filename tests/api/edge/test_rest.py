"""Commands over REST: problems, idempotency, correlation, limits."""

import hashlib
import logging
import socket
from uuid import UUID, uuid4

import httpx2
import pytest

from api.server import listen

from .conftest import Edge


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert {"type", "title", "status", "code", "detail"} <= body.keys()
    assert body["status"] == answer.status_code
    assert body["type"] == f"urn:village:problem:{body['code']}"
    assert str(UUID(answer.headers["correlation-id"])) == answer.headers["correlation-id"]
    return answer.status_code, body["code"]


def deposit(edge: Edge, account: UUID, grains: str = "5", key: str | None = None, **headers: str) -> httpx2.Response:
    body = {"account_id": str(account), "grains": grains}
    named = {"Idempotency-Key": key} if key else {}
    return edge.client.post("/v1/sample/deposit", json=body, headers=edge.bearer() | named | headers)


def test_a_command_answers_its_position_and_id(edge: Edge) -> None:
    account = uuid4()
    answer = deposit(edge, account, key="first")
    assert answer.status_code == 200
    assert answer.json() == {"position": 2, "id": str(account)}


def test_the_same_key_and_body_get_the_first_answer_and_record_nothing(edge: Edge) -> None:
    account = uuid4()
    first, again = deposit(edge, account, key="k1"), deposit(edge, account, key="k1")
    assert again.json() == first.json()
    assert edge.log.head() == 2
    assert deposit(edge, account, key="k2").json()["position"] == 3


def test_the_same_key_with_another_body_is_refused(edge: Edge) -> None:
    account = uuid4()
    deposit(edge, account, key="k1")
    assert code_of(deposit(edge, account, grains="6", key="k1")) == (422, "idempotency_key_reused")
    assert edge.log.head() == 2


def test_two_principals_may_use_the_same_key(edge: Edge) -> None:
    account = uuid4()
    deposit(edge, account, key="k1")
    other = deposit(edge, account, key="k1", **edge.bearer(subject="grace"))
    assert other.json()["position"] == 3


def test_a_command_that_moves_money_needs_a_key(edge: Edge) -> None:
    assert code_of(deposit(edge, uuid4())) == (400, "idempotency_key_required")
    assert code_of(deposit(edge, uuid4(), key="x" * 129)) == (400, "idempotency_key_invalid")
    assert edge.log.head() == 0


def test_actor_and_correlation_id_reach_the_envelope_of_the_events(edge: Edge) -> None:
    correlation = uuid4()
    answer = deposit(edge, uuid4(), key="k", **{"Correlation-Id": str(correlation)})
    assert answer.headers["correlation-id"] == str(correlation)
    with edge.ctx.database.reader.connection() as connection:
        rows = connection.execute("SELECT DISTINCT actor, correlation_id FROM log.events").fetchall()
    assert rows == [("operator:ada", correlation)]


def test_a_correlation_id_that_is_no_uuid_is_refused(steady: Edge) -> None:
    assert code_of(deposit(steady, uuid4(), key="k", **{"Correlation-Id": "abc"})) == (400, "correlation_id_invalid")


def test_a_refusal_is_answered_by_its_class_and_records_nothing(edge: Edge) -> None:
    account = uuid4()
    deposit(edge, account, key="k")
    body = {"account_id": str(account), "grains": "6"}
    answer = edge.client.post("/v1/sample/withdraw", json=body, headers=edge.bearer())
    assert code_of(answer) == (422, "overdrawn")
    assert answer.json()["title"] == "An account pays at most what it has."
    assert answer.json()["detail"] == "6 asked, 5 there"
    assert edge.log.head() == 2
    unknown = {"account_id": str(uuid4()), "grains": "6"}
    answer = edge.client.post("/v1/sample/withdraw", json=unknown, headers=edge.bearer())
    assert code_of(answer) == (404, "aggregate_not_found")


@pytest.mark.parametrize(
    "body", [b"{", b'{"sequence": NaN}', b"\xff\xfe", b"[" * 5_000, b'{"a": 1,}', b'{"a": [{"b\\u0000": 1}]}']
)
def test_a_body_that_is_not_json_is_refused_by_name(steady: Edge, body: bytes) -> None:
    headers = steady.bearer() | {"Content-Type": "application/json", "Idempotency-Key": "k"}
    assert code_of(steady.client.post("/v1/sample/deposit", content=body, headers=headers)) == (400, "json_malformed")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"grains": "1"}, "account_id"),
        ({"account_id": "x", "grains": "1"}, "account_id"),
        ({"account_id": str(UUID(int=1)), "grains": 1}, "grains"),
        ({"account_id": str(UUID(int=1)), "grains": "1", "extra": 1}, "extra"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_a_validation_error_names_the_field(steady: Edge, body: object, field: str) -> None:
    before = steady.log.head()
    answer = steady.client.post("/v1/sample/deposit", json=body, headers=steady.bearer() | {"Idempotency-Key": "k"})
    assert code_of(answer) == (422, "request_invalid")
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert steady.log.head() == before


@pytest.mark.parametrize(
    ("grains", "code"),
    [("-1", "amount_not_positive"), ("1.5", "amount_fractional"), ("9" * 19, "amount_too_large")],
)
def test_a_number_that_is_no_amount_has_a_code_of_its_own_and_the_field_is_named(
    steady: Edge, grains: str, code: str
) -> None:
    before, body = steady.log.head(), {"account_id": str(UUID(int=1)), "grains": grains}
    answer = steady.client.post("/v1/sample/deposit", json=body, headers=steady.bearer() | {"Idempotency-Key": "k"})
    assert code_of(answer) == (422, code)
    assert answer.json()["detail"].startswith("grains is ")
    assert steady.log.head() == before


def test_a_nul_in_a_text_is_refused_and_a_written_backslash_is_not(steady: Edge) -> None:
    headers = {"Content-Type": "application/json"}
    nul = steady.client.post("/v1/sample/open", content=b'{"memo": "a\\u0000b"}', headers=headers)
    assert code_of(nul) == (400, "json_malformed")
    assert "NUL" in nul.json()["detail"]
    backslash = steady.client.post("/v1/sample/open", content=b'{"memo": "a\\\\u0000b"}', headers=headers)
    assert backslash.json() == {"memo": "a\\u0000b"}


def test_a_member_acts_only_for_itself(steady: Edge) -> None:
    me, body = uuid4(), {"account_id": str(uuid4()), "grains": "1"}
    headers = steady.bearer("member", str(me)) | {"Idempotency-Key": "k"}
    mine = steady.client.post("/v1/sample/deposit", json=body | {"owner_id": str(me)}, headers=headers)
    assert mine.status_code == 200
    other = steady.client.post("/v1/sample/deposit", json=body | {"owner_id": str(uuid4())}, headers=headers)
    assert code_of(other) == (403, "forbidden")


def test_our_own_mistake_is_masked_and_can_be_looked_up(steady: Edge, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = steady.client.get("/v1/sample/broken", headers=steady.bearer())
    assert code_of(answer) == (500, "internal_error")
    assert answer.headers["correlation-id"] in answer.json()["detail"]
    assert "swordfish" not in answer.text
    assert "Traceback" not in answer.text
    (line,) = [record for record in caplog.records if record.name == "api"]
    assert "RuntimeError: the secret is swordfish" in str(line.msg), "the log has what the answer hides"
    assert answer.headers["correlation-id"] in str(line.msg)


def test_an_unknown_path_and_a_wrong_method_are_problems_too(steady: Edge) -> None:
    assert code_of(steady.client.get("/v1/nothing")) == (404, "not_found")
    assert code_of(steady.client.get("/v1/sample/deposit")) == (405, "method_not_allowed")
    assert code_of(steady.client.get("/graphql")) == (405, "method_not_allowed")


def test_a_body_beyond_its_bound_is_refused_announced_or_not(steady: Edge) -> None:
    announced = steady.client.post("/v1/sample/open", content=b"x" * 1_001)
    assert code_of(announced) == (413, "body_too_large")

    def pieces() -> object:
        for _ in range(3):
            yield b"x" * 500

    streamed = steady.client.post("/v1/sample/open", content=pieces())  # type: ignore[arg-type]
    assert code_of(streamed) == (413, "body_too_large")


def test_an_upload_beyond_its_bound_is_refused_while_it_streams(steady: Edge) -> None:
    name = hashlib.sha256(b"").hexdigest()

    def pieces() -> object:
        for _ in range(20):
            yield b"x" * 100_000

    url = f"/v1/sample/blobs/{name}"
    answer = steady.client.put(url, content=pieces(), headers=steady.bearer())  # type: ignore[arg-type]
    assert code_of(answer) == (413, "body_too_large")


class TestRates:
    @pytest.fixture
    def rates(self) -> dict[str, int]:
        return {"rate_window_seconds": 30, "rate_operator": 3, "rate_anonymous": 8}

    def test_a_principal_beyond_its_rate_is_told_how_long_to_wait_and_others_go_on(self, edge: Edge) -> None:
        for _ in range(3):
            assert edge.client.get("/openapi.json", headers=edge.bearer()).status_code == 200
        answer = edge.client.get("/openapi.json", headers=edge.bearer())
        assert code_of(answer) == (429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert edge.client.get("/openapi.json", headers=edge.bearer(subject="grace")).status_code == 200

    def test_guessing_proofs_is_slowed_down_by_address(self, edge: Edge) -> None:
        guesses = [
            edge.client.get("/openapi.json", headers={"Authorization": "Bearer guess"}).status_code for _ in range(10)
        ]
        assert guesses == [401] * 8 + [429] * 2
        assert edge.client.get("/openapi.json", headers=edge.bearer()).status_code == 200

    def test_a_probe_is_answered_however_often_its_address_has_asked(self, edge: Edge) -> None:
        for path in ("/livez", "/readyz", "/version") * 5:
            assert edge.client.get(path).status_code == 200, path
        assert edge.client.get("/login", params={"code": "x"}).status_code != 429, "probes leave the others their share"
        logins = [edge.client.get("/login", params={"code": "x"}).status_code for _ in range(8)]
        assert logins[-1] == 429
        for path in ("/livez", "/readyz", "/version"):
            assert edge.client.get(path).status_code == 200, path


def test_the_openapi_document_describes_the_commands(steady: Edge) -> None:
    document = steady.client.get("/openapi.json", headers=steady.bearer()).json()
    assert document["openapi"].startswith("3.1")
    assert document["components"]["schemas"]["Deposit"]["properties"]["grains"]["type"] == "string"


def test_the_server_s_socket_is_one_whose_answers_are_not_held_back() -> None:
    listening, url = listen("127.0.0.1", 0)
    with listening:
        assert listening.proto == socket.IPPROTO_TCP, "asyncio turns Nagle's algorithm off only for this"
        assert url == f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", listening.getsockname()[1])


def test_health_names_each_check_with_its_time(edge: Edge) -> None:
    ready = edge.client.get("/readyz")
    assert ready.status_code == 200
    assert [check["name"] for check in ready.json()["checks"]] == ["database", "consumers", "disk"]
    assert all(check["ok"] and check["ms"] >= 0 for check in ready.json()["checks"])
    assert edge.client.get("/livez").json() == {"ok": True}
    assert edge.client.get("/version").json()["version"] == edge.ctx.version


def test_health_tells_how_far_each_consumer_is_behind(edge: Edge) -> None:
    deposit(edge, uuid4(), key="k")
    with edge.ctx.database.writer.connection() as connection:
        connection.execute("INSERT INTO engine.cursors (name, position) VALUES ('projection:accounts', 1)")
    consumers = edge.client.get("/readyz").json()["checks"][1]
    assert consumers["head"] == 2
    assert consumers["lag_events"] == {"projection:accounts": 1}
    assert 0 < consumers["lag_ms"]["projection:accounts"] < 60_000
    metrics = edge.client.get("/metrics").text
    assert 'village_cursor_lag_events{consumer="projection:accounts"} 1.0' in metrics
    assert 'village_cursor_lag_seconds{consumer="projection:accounts"}' in metrics
