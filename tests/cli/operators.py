"""Somebody who types the commands of the operator's guide."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from domain.tokenomics.transfer import Transfer
from tests.cli.villages import ROOT, Running, environment
from tests.commands import village

GUIDE = ROOT / "docs" / "guides" / "operator.md"
POSTED = Transfer.Posted.TOPIC  # type: ignore[attr-defined]
OF_PROCESSES = {
    ("up",), ("up", "--json"), ("up", "--contexts", "tokenomics,device_registry"), ("api",),
    *(("worker", name) for name in ("projector", "saga-runner", "aggregator", "clock")),
}  # fmt: skip
"""What runs until it is stopped: this village is made of it, and tests/cli/test_contexts.py of a part."""
ELSEWHERE = OF_PROCESSES | {("db", "restore", "village.backup")}


class Operator:
    """Somebody who types `village ...` at one home."""

    def __init__(self, home: Path, up: Running | None = None) -> None:
        self.home = home
        self.up = up
        self.env = environment(home)

    def types(self, *words: str, code: int = 0) -> str:
        done = village(*words, env=self.env)
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout if code == 0 else done.stderr + done.stdout

    def asks(self, *words: str) -> Any:
        return json.loads(self.types(*words, "--json"))

    def projections(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.asks("projections", "list")["projections"]}

    @property
    def url(self) -> str:
        return (self.home / "database.url").read_text().strip()

    def sql(self, statement: str) -> list[Any]:
        with psycopg.connect(self.url) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def set_aside(self, cursor: str, key: str, position: int) -> None:
        """A dead letter that nothing has caused."""
        self.sql(
            "INSERT INTO engine.dead_letters (cursor, position, key, poison, error, traceback)"
            f" VALUES ('{cursor}', {position}, '{key}', true, 'no', '') ON CONFLICT DO NOTHING"
        )

    def grow(self) -> None:
        """The log gets another newest fact."""
        self.types("projections", "rebuild", "matches", "--no-wait", "--reason", "so that the log grows")

    def memo(self, transfer_id: UUID) -> Any:
        (link,) = [each for each in self.asks("audit", "explain", str(transfer_id)) if each["topic"] == POSTED]
        return link["state"]["memo"]

    def follows(self, words: Sequence[str]) -> None:
        """Types a command of the guide, whose output may go to a file."""
        at = list(words).index(">") if ">" in words else len(words)
        told = self.types(*words[:at])
        for file in words[at + 1 :]:
            Path(file).write_text(told)

    @property
    def head(self) -> int:
        """The position of the newest fact."""
        return int(self.sql("SELECT max(position) FROM log.events")[0][0])


def guided() -> list[tuple[str, ...]]:
    """The words of every command of the guide, in its order; what is optional is chosen."""
    lines = re.findall(r"^(?: {4})?village (.+)$", GUIDE.read_text(), re.MULTILINE)
    return [tuple(shlex.split(re.sub(r"[\[\]]", "", line), comments=True)) for line in lines]


def filled(words: Sequence[str], names: Mapping[str, object], folder: Path) -> list[str]:
    """A command with these names in place, at this moment, with its files in a folder."""
    known = {
        "2026-01-31T12:00:00Z": datetime.now(UTC).isoformat(),
        **{name: folder / name for name in ("verifiers.txt", "village.checkpoint", "village.backup")},
        **names,
    }
    return [str(known.get(word, word)) for word in words]
