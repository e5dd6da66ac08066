"""Login links: once, not for long, and never stored as they are."""

from datetime import timedelta

import pytest

from api.edge.gate import COOKIE
from api.edge.login import create_login_code
from api.edge.principals import InvalidSubject

from .conftest import Edge


def test_a_login_link_gives_a_session_once(edge: Edge) -> None:
    code = create_login_code(edge.ctx.database.writer, role="operator", subject="ada")
    first = edge.client.get("/login", params={"code": code})
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert edge.ask("{ leaf { name } }", headers={})["data"]["leaf"]["name"] == "operator:ada"
    again = edge.client.get("/login", params={"code": code})
    assert (again.status_code, again.json()["code"]) == (401, "login_code_invalid")
    assert "set-cookie" not in again.headers
    person = edge.client.get("/login", params={"code": code}, headers={"Accept": "text/html"})
    assert (person.status_code, person.headers["location"]) == (303, "/?login=invalid")
    assert "set-cookie" not in person.headers


def test_logging_out_forgets_the_session(edge: Edge) -> None:
    code = create_login_code(edge.ctx.database.writer, role="operator", subject="ada")
    edge.client.get("/login", params={"code": code})
    assert edge.client.post("/logout").status_code == 204
    assert edge.client.post("/graphql", json={"query": "{ leaf { name } }"}).status_code == 401


def test_an_expired_or_made_up_login_code_is_refused(edge: Edge) -> None:
    late = create_login_code(edge.ctx.database.writer, role="operator", subject="ada", life=timedelta(seconds=-1))
    for code in (late, "x" * 43):
        answer = edge.client.get("/login", params={"code": code})
        assert (answer.status_code, answer.json()["code"]) == (401, "login_code_invalid")
    answer = edge.client.get("/login", params={"code": "short"})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


def test_a_login_code_is_kept_only_as_its_hash(edge: Edge) -> None:
    code = create_login_code(edge.ctx.database.writer, role="operator", subject="ada")
    with edge.ctx.database.writer.connection() as connection:
        (row,) = connection.execute("SELECT * FROM edge.login_codes").fetchall()
    assert code not in str(row)
    assert code.encode() not in row[0]


@pytest.mark.parametrize(("role", "subject"), [("device", "x"), ("operator", "a b"), ("member", "ada"), ("root", "x")])
def test_nobody_logs_in_as_what_cannot_log_in(edge: Edge, role: str, subject: str) -> None:
    with pytest.raises(InvalidSubject):
        create_login_code(edge.ctx.database.writer, role=role, subject=subject)
