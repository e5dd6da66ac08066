"""One-time login links: a short-lived code, stored only as its hash, becomes a session cookie once."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from infrastructure import login_codes
from infrastructure.database import Pool

from .context import ApiContext
from .gate import COOKIE, GatedRoute, open_to_all
from .principals import Tokens, checked_subject
from .problems import LoginCodeInvalid

SESSION_LIFE = timedelta(hours=12)

log = structlog.get_logger("api")


def create_login_code(pool: Pool, *, role: str, subject: str, life: timedelta = login_codes.CODE_LIFE) -> str:
    """A new login code (256 random bits) for an operator or a member; `pool` has the writer's rights.

    The code goes into `/login?code=...` and is kept nowhere: the table holds its SHA-256. Codes that expired a day
    ago are forgotten on the way. Raises InvalidSubject.
    """
    return login_codes.create(pool, role=role, subject=checked_subject(role, subject), life=life)


def _spend(pool: Pool, code: str) -> tuple[str, str]:
    """Use a code up; answers role and subject. Raises LoginCodeInvalid."""
    now = datetime.now(UTC)
    with pool.connection() as connection:
        row = connection.execute(
            "UPDATE edge.login_codes SET used_at = %s WHERE code_sha256 = %s AND used_at IS NULL AND expires_at > %s "
            "RETURNING role, subject",
            (now, login_codes.digest(code), now),
        ).fetchone()
    if row is None:
        raise LoginCodeInvalid("unknown, used before or expired: `village token login` prints a new link")
    return row[0], row[1]


def router(ctx: ApiContext, tokens: Tokens) -> APIRouter:
    """GET /login and POST /logout."""
    routes = APIRouter(route_class=GatedRoute, tags=["session"])
    secure = (ctx.settings.public_url or "").startswith("https:")

    @routes.get("/login", status_code=303, response_class=RedirectResponse)
    @open_to_all()
    async def login(request: Request, code: Annotated[str, Query(min_length=16, max_length=128)]) -> Response:
        """Turn a one-time code into a session cookie and go to the page."""
        try:
            role, subject = await ctx.in_command_thread(lambda: _spend(ctx.database.writer, code))
        except LoginCodeInvalid:
            if "text/html" not in request.headers.get("accept", ""):
                raise
            # A person with a browser is told by the page, which also says how to get another link.
            return RedirectResponse("/?login=invalid", status_code=303, headers={"Cache-Control": "no-store"})
        token = tokens.issue(role=role, subject=subject, expires_in=SESSION_LIFE)
        log.info("logged in", actor=f"{role}:{subject}")
        response = RedirectResponse("/", status_code=303, headers={"Cache-Control": "no-store"})
        response.set_cookie(
            COOKIE,
            token,
            max_age=int(SESSION_LIFE.total_seconds()),
            httponly=True,
            samesite="strict",
            secure=secure or request.url.scheme == "https",
        )
        return response

    @routes.post("/logout", status_code=204)
    @open_to_all()
    async def logout() -> Response:
        """Forget the session cookie."""
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    return routes
