"""What must hold at the end of the demo, examined from outside: over HTTP, and by replaying the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cli.demo_beside import CUSTOMER_ID
from cli.demo_harvest import LENDERS, lender_of
from cli.demo_market import SOLD
from cli.demo_progress import Deal, Lent, Payout, Progress
from cli.demo_run import SELLER_ID, Run
from domain.kernel.tokens import format_tokens
from domain.tokenomics.pricing import Activity, Policy, fee, reward
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
class Found:
    """What is examined: how it ended, every harvest session as it was when it paused, and the prices that hold."""

    last: Progress
    pauses: Mapping[UUID, Lent]
    prices: Policy

    @property
    def trainers(self) -> list[Payout]:
        """What devices have earned by training; lenders do not train."""
        lenders = {lent.device_id for lent in self.last.lent}
        return [payout for payout in self.last.payouts if payout.device_id not in lenders]


@dataclass(frozen=True)
class Outcome:
    """How a demo ended."""

    checks: Sequence[Check]
    payouts: Sequence[Payout]
    lent: Sequence[Lent]
    pauses: Mapping[UUID, Lent]
    deals: Sequence[Deal]
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
            "harvest": [self._lent(lent) for lent in self.lent],
            "market": [_deal(deal) for deal in self.deals],
        }

    def why_paused(self, lent: Lent) -> str | None:
        """Why a session was paused, in words; None when it never was."""
        pause = self.pauses.get(lent.session_id)
        return None if pause is None else pause.reason.text

    def _lent(self, lent: Lent) -> Mapping[str, Any]:
        return {
            "session_id": str(lent.session_id),
            "device_id": str(lent.device_id),
            "device": lender.name if (lender := lender_of(lent)) else "",
            "paused": self.why_paused(lent),
            "run_ms": lent.run_ms,
            "verified_ms": lent.verified_ms,
            "paid_tokens": format_tokens(int(lent.earned_grains)),
        }


def _deal(deal: Deal) -> Mapping[str, Any]:
    amounts = {
        "price": deal.agreed_price, "credit": deal.credit_grains, "charged": deal.charged_grains,
        "fee": deal.fee_grains, "provider": deal.provider_grains, "released": deal.released_grains,
    }  # fmt: skip
    return {
        "contract_id": str(deal.contract_id),
        "state": deal.state,
        "used_ms": deal.used_ms,
        **{f"{name}_tokens": format_tokens(int(grains)) for name, grains in amounts.items()},
    }


def examine(run: Run, found: Found, database_url: str, least_accuracy: float, seconds: float) -> Outcome:
    """Check the end of a demo. Raises VillageError or psycopg.Error when the village does not answer."""
    last = found.last
    accuracy = last.completed[-1].accuracy if last.completed else None
    checks = [
        Check("rounds completed", len(last.completed) == run.plan.rounds, f"{len(last.completed)}/{run.plan.rounds}"),
        Check(
            f"test accuracy at least {least_accuracy:.0%}",
            accuracy is not None and accuracy >= least_accuracy,
            "unknown" if accuracy is None else f"{accuracy:.1%}",
        ),
        paid(found, run.plan.devices),
        *([_lending(found), _trade(found, run)] if run.plan.beside else []),
        supply(run.supply()),
        read_models(database_url),
    ]
    return Outcome(
        checks, found.trainers, last.lent, found.pauses, last.deals, accuracy or 0.0, len(last.completed), seconds
    )


def paid(found: Found, devices: int) -> Check:
    """Every device has earned something by training, and has it."""
    grains = [int(payout.paid_grains) for payout in found.trainers if int(payout.paid_grains) > 0]
    return Check(
        "every device that trained is paid, nothing pending",
        len(grains) == devices and found.last.pending_grains == 0,
        f"{format_tokens(sum(grains))} tokens to {len(grains)} devices",
    )


def _lending(found: Found) -> Check:
    """Each paid exactly what its verified time gives, and nothing for the time after it was paused."""
    lent = found.last.lent
    ok = len(lent) == len(LENDERS) and all(_lent_right(one, found) for one in lent)
    paid = sum(found.last.paid_to(one.device_id) for one in lent)
    seconds = sum(one.verified_ms for one in lent) / 1_000
    return Check(
        "harvest paid by verified time, no pause paid",
        ok,
        f"{format_tokens(paid)} tokens for {seconds:.1f} s, {len(found.pauses)} of {len(lent)} devices paused",
    )


def _lent_right(lent: Lent, found: Found) -> bool:
    lender, pause = lender_of(lent), found.pauses.get(lent.session_id)
    if lender is None or lent.closed_at is None:
        return False
    done = Activity(
        "harvest_contribution", lent.session_id, lent.device_id, lent.owner_id, lent.verified_ms, lent.quality_bp
    )
    due = reward(found.prices, done).grains
    lasted = datetime.fromisoformat(lent.closed_at) - datetime.fromisoformat(lent.requested_at)
    return (
        due == int(lent.earned_grains) == found.last.paid_to(lent.device_id)
        and 0 < lent.verified_ms <= lent.run_ms <= lasted / timedelta(milliseconds=1)
        and (None if pause is None else pause.reason.kind) == lender.paused_by
        and (pause is None or pause.verified_ms == lent.verified_ms)
    )


def _trade(found: Found, run: Run) -> Check:
    """A burst in full and one contract credited, all settled; every hold ended once, whole; the wallets agree."""
    deals = found.last.deals
    together = {part.contract_id for burst in found.last.bursts if burst.state == "allocated" for part in burst.nodes}
    charged, received = (
        sum(int(deal.charged_grains) for deal in deals),
        sum(int(deal.provider_grains) for deal in deals),
    )
    customer, seller = run.wallet(CUSTOMER_ID), run.wallet(SELLER_ID)
    earned = sum(map(found.last.paid_to, run.devices_of(CUSTOMER_ID)))
    ok = (
        len(deals) == SOLD + 1
        and len(together) == SOLD
        and all(_settled_right(deal, found.prices) for deal in deals)
        and all((int(deal.credit_grains) > 0) == (deal.contract_id not in together) for deal in deals)
        and customer == (earned - charged, 0)
        and seller == (received, 0)
    )
    credit = sum(int(deal.credit_grains) for deal in deals)
    return Check(
        "burst and contract settled, breach credited",
        ok,
        f"{format_tokens(charged)} tokens charged, {format_tokens(credit)} credited, {len(deals)} contracts",
    )


def _settled_right(deal: Deal, prices: Policy) -> bool:
    charged = int(deal.charged_grains)
    return (
        deal.state == "settled"
        and charged + int(deal.released_grains) == int(deal.agreed_price)
        and charged == int(deal.fee_grains) + int(deal.provider_grains)
        and int(deal.fee_grains) == fee(prices, charged)
    )


def supply(found: Mapping[str, Any]) -> Check:
    """What all accounts have is what was issued."""
    return Check(
        "supply conserved to the grain",
        bool(found["conserved"]) and found["driftGrains"] == "0" and found["issuedGrains"] == found["totalGrains"],
        f"{format_tokens(int(found['totalGrains']))} of {format_tokens(int(found['issuedGrains']))} tokens,"
        f" drift {found['driftGrains']} grains",
    )


def read_models(database_url: str) -> Check:
    """What the log gives when it is folded anew is what is read live."""
    with Database(database_url, pool_size=1, application="demo") as database, database.reader.connection() as reader:
        comparison: Comparison = compare(reader, READ_MODELS)
    found = (
        f"{len(READ_MODELS)} read models, {comparison.rows} rows from {comparison.facts} facts,"
        f" {len(comparison.differences)} differences"
    )
    return Check(
        "every read model equals its rebuild from the log", not comparison.differences and comparison.rows > 0, found
    )
