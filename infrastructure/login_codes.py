"""One-time login codes: kept as their SHA-256 only, in a table that every process of the village shares."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final

from infrastructure.database import Pool

CODE_LIFE: Final = timedelta(minutes=15)


def create(pool: Pool, *, role: str, subject: str, life: timedelta = CODE_LIFE) -> str:
    """A new code (256 random bits) for a checked subject; `pool` has the writer's rights.

    Codes that expired a day ago are forgotten on the way.
    """
    code, now = secrets.token_urlsafe(32), datetime.now(UTC)
    with pool.connection() as connection:
        connection.execute("DELETE FROM edge.login_codes WHERE expires_at < %s", (now - timedelta(days=1),))
        connection.execute(
            "INSERT INTO edge.login_codes (code_sha256, role, subject, expires_at) VALUES (%s, %s, %s, %s)",
            (digest(code), role, subject, now + life),
        )
    return code


def digest(code: str) -> bytes:
    """What is kept of a code."""
    return hashlib.sha256(code.encode()).digest()
