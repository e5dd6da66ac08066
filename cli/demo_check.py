"""What must hold at the end of the demo, examined from outside: over HTTP, and by replaying the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.demo_run import Payout, Plan, Progress, Run
from domain.kernel.tokens import format_tokens
from infrastructure.database import Database
from projections.catalogue import READ_MODELS
from projections.replay import Comparison, compare


@dataclass(frozen=True)
class Check:
    """One thing that must hold, and what was found."""

    name: str
    ok: bool
    found: str


@dataclass(frozen=True)
class Outcome:
    """How a demo ended."""

    checks: Sequence[Check]
    payouts: Sequence[Payout]
    accuracy: float
    rounds: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all of it held."""
        return all(check.ok for check in self.checks)

    def summary(self) -> Mapping[str, Any]:
        """The outcome as plain values, money in decimal tokens."""
        return {
            "ok": self.ok,
            "accuracy": self.accuracy,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 1),
            "checks": [{"name": check.name, "ok": check.ok, "found": check.found} for check in self.checks],
            "devices": [
                {
                    "device_id": str(payout.device_id),
                    "rounds_paid": payout.claims,
                    "paid_tokens": format_tokens(int(payout.paid_grains)),
                }
                for payout in self.payouts
            ],
        }


def examine(run: Run, last: Progress, database_url: str, least_accuracy: float, seconds: float) -> Outcome:
    """Check the end of a training. Raises VillageError or psycopg.Error when the village does not answer."""
    accuracy = last.completed[-1].accuracy if last.completed else None
    checks = [
        Check("rounds completed", len(last.completed) == run.plan.rounds, f"{len(last.completed)}/{run.plan.rounds}"),
        Check(
            f"test accuracy at least {least_accuracy:.0%}",
            accuracy is not None and accuracy >= least_accuracy,
            "unknown" if accuracy is None else f"{accuracy:.1%}",
        ),
        _paid(last, run.plan),
        _supply(run.supply()),
        _read_models(database_url),
    ]
    return Outcome(checks, last.payouts, accuracy or 0.0, len(last.completed), seconds)


def _paid(last: Progress, plan: Plan) -> Check:
    paid = [payout for payout in last.payouts if int(payout.paid_grains) > 0]
    return Check(
        "every device paid, nothing pending",
        len(paid) == plan.devices and last.pending_grains == 0,
        f"{format_tokens(last.paid_grains)} tokens to {len(paid)} devices",
    )


def _supply(found: Mapping[str, Any]) -> Check:
    return Check(
        "supply conserved to the grain",
        bool(found["conserved"]) and found["driftGrains"] == "0" and found["issuedGrains"] == found["totalGrains"],
        f"{format_tokens(int(found['totalGrains']))} of {format_tokens(int(found['issuedGrains']))} tokens,"
        f" drift {found['driftGrains']} grains",
    )


def _read_models(database_url: str) -> Check:
    with Database(database_url, pool_size=1, application="demo") as database, database.reader.connection() as reader:
        comparison: Comparison = compare(reader, READ_MODELS)
    found = (
        f"{len(READ_MODELS)} read models, {comparison.rows} rows from {comparison.facts} facts,"
        f" {len(comparison.differences)} differences"
    )
    return Check(
        "every read model equals its rebuild from the log", not comparison.differences and comparison.rows > 0, found
    )
