"""Whoever waits at the terminal for a rebuild that does not end is told so."""

import pytest

from cli import projections
from cli.errors import CommandFailed
from infrastructure.database import Database, Role


@pytest.mark.parametrize(
    ("bound", "told"), [("START_WITHIN_S", "No projector has begun"), ("MAX_WAIT_S", "still rebuilds wallets")]
)
def test_a_rebuild_that_does_not_end_in_time_is_no_success(
    database: Database, monkeypatch: pytest.MonkeyPatch, bound: str, told: str
) -> None:
    monkeypatch.setattr(projections, bound, 0)
    with database.connect(Role.READER) as connection, pytest.raises(CommandFailed, match=told):
        projections._show_rebuild(connection, "wallets")
