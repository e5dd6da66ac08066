"""Matching: which offering serves a request best, decided from a snapshot so that anybody can decide it again."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from domain.kernel import Instant, Refusal, Value
from domain.kernel.time import milliseconds
from domain.kernel.tokens import MAX_GRAINS, positive

from .offering import SERVICE_TYPES
from .sla import BASIS
from .terms import MAX_TERM, MS_PER_HOUR

_ORDER = (
    "score = price_weight x saved bp of max_price + uptime_weight x promised bp;"
    " highest score, then lowest price, then lowest id"
)
RULES = {
    1: f"marketplace.matching/1: all constraints met; {_ORDER}",
    2: f"marketplace.matching/2: all constraints met, also by what the device has measured of itself; {_ORDER}",
    3: f"marketplace.matching/3: as /2, and the device is active, online and does not rest; {_ORDER}",
}
RULESET = 3
"""The rules of a decision that is made now; those before stay, so that old receipts can be decided again."""
MEASURED = ("matrix_mflops", "memory_mb_s", "disk_mb_s")
"""What a device can have measured of itself, and a wish ask for (since rules 2)."""
UNASKED = {f"min_{name}": 0 for name in MEASURED}
"""What a wish asks of it that was made before."""
MAX_CANDIDATES = 10_000
MAX_SHOWN = 20
MAX_WEIGHT = 100


class WishInvalid(Refusal):
    """A request is for a known service by a deadline within 366 days, with bounds of 0 or more and weights to 100."""


class Wish(Value, frozen=True):
    """What a customer looks for. Zero and None ask for nothing; weights say how much a saving and a promise count.

    The last three are about what the device has measured of itself: one that brings no such evidence does not serve.
    """

    service_type: str
    units: int
    duration_ms: int
    deadline_at: Instant
    max_price_grains: int
    region: str | None = None
    min_ram_mb: int = 0
    min_cpu_cores: int = 0
    min_compute_score: int = 0
    min_uptime_bp: int = 0
    price_weight: int = 1
    uptime_weight: int = 1
    min_matrix_mflops: int = 0
    min_memory_mb_s: int = 0
    min_disk_mb_s: int = 0


class KnownDevice(Value, frozen=True):
    """What is known of the device of an offering: whether it is active and online, and whether it may not work now by
    the policy it lends itself under; and what it has measured of itself, 0 where nothing.
    """

    online: bool = False
    rests: bool = False
    matrix_mflops: int = 0
    memory_mb_s: int = 0
    disk_mb_s: int = 0

    @property
    def measured(self) -> dict[str, int]:
        """What it has measured, by quantity."""
        return {name: value for name in MEASURED if (value := getattr(self, name))}


NOTHING_KNOWN = KnownDevice()


class Candidate(Value, frozen=True):
    """What is known of an open offering at the snapshot. `device` is None under rules that did not look at it."""

    offering_id: UUID
    provider_id: UUID
    service_type: str
    region: str
    ram_mb: int
    cpu_cores: int
    compute_score: int
    free: int
    price_grains_per_hour: int
    uptime_bp: int
    valid_until: datetime
    device: KnownDevice | None = None


class Scored(Value, frozen=True):
    """An offering that meets all constraints, the parts of its score, its price in grains, and what was measured."""

    offering_id: UUID
    score: int
    saving: int
    uptime: int
    price_grains: int
    measured: dict[str, int] = {}


class Decision(Value, frozen=True):
    """The best 20 offerings in order, why the others do not serve, and the winner, which is the first."""

    candidates: list[Scored]
    rejected: dict[str, int]
    winner: UUID | None


class Snapshot(Value, frozen=True):
    """The open offerings at a position; `known_at` says up to which positions others had told what, by read model."""

    candidates: list[Candidate]
    position: int
    known_at: dict[str, int] = {}


class OfferingDirectory(Protocol):
    """Query port: the open offerings, from the read model."""

    def open_offerings(self, *, limit: int) -> Snapshot:
        """At most `limit` open offerings, by rising id."""


def checked(wish: Wish, now: datetime) -> Wish:
    """The wish, once it is known to be one. Raises WishInvalid, AmountNotPositive, AmountTooLarge."""
    positive(wish.max_price_grains)
    if wish.service_type not in SERVICE_TYPES:
        raise WishInvalid(f"service_type is one of {', '.join(SERVICE_TYPES)}")
    fits = 1 <= wish.duration_ms <= milliseconds(now, wish.deadline_at)
    if wish.units < 1 or wish.deadline_at > now + MAX_TERM or not fits:
        raise WishInvalid(f"{wish.units} units, {wish.duration_ms} ms by {wish.deadline_at.isoformat()}")
    bounds = (wish.min_ram_mb, wish.min_cpu_cores, wish.min_compute_score, wish.min_uptime_bp)
    if min(*bounds, *(_least(wish, name) for name in MEASURED)) < 0:
        raise WishInvalid("a bound is zero or more")
    if not all(0 <= weight <= MAX_WEIGHT for weight in (wish.price_weight, wish.uptime_weight)):
        raise WishInvalid(f"a weight is 0 to {MAX_WEIGHT}")
    return wish


def match(
    wish: Wish, customer_id: UUID, asked_at: datetime, candidates: Iterable[Candidate], rules: int = RULESET
) -> Decision:
    """Decide, in integers and without clock or chance: the same candidates in any order give the same decision."""
    rejected: Counter[str] = Counter()
    scored: list[Scored] = []
    for candidate in candidates:
        reason = _rejected_by(wish, customer_id, asked_at, candidate, rules)
        if reason is None:
            scored.append(_scored(wish, candidate))
        else:
            rejected[reason] += 1
    scored.sort(key=lambda one: (-one.score, one.price_grains, one.offering_id))
    winner = scored[0].offering_id if scored else None
    return Decision(scored[:MAX_SHOWN], dict(sorted(rejected.items())), winner)


def ruleset_hash(wish: Wish, rules: int = RULESET) -> str:
    """The SHA-256 of the rules a decision followed. Bounds that the rules did not know are no part of it."""
    asked = msgspec.to_builtins(wish)
    if rules < 2:
        asked = {name: value for name, value in asked.items() if name not in UNASKED}
    parts: Sequence[object] = (RULES[rules], asked)
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def measures_up(wish: Wish, measured: Mapping[str, int]) -> bool:
    """Whether a device that has measured so much of itself has what a wish asks of that."""
    return all(measured.get(name, 0) >= _least(wish, name) for name in MEASURED)


def _least(wish: Wish, quantity: str) -> int:
    least: int = getattr(wish, f"min_{quantity}")
    return least


def _price(wish: Wish, candidate: Candidate) -> int:
    return candidate.price_grains_per_hour * wish.units * wish.duration_ms // MS_PER_HOUR


def _rejected_by(wish: Wish, customer_id: UUID, asked_at: datetime, candidate: Candidate, rules: int) -> str | None:
    """The first constraint that is not met."""
    device = candidate.device or NOTHING_KNOWN
    met = {
        "service_type": candidate.service_type == wish.service_type,
        "self_dealing": candidate.provider_id != customer_id,
        "valid_until": candidate.valid_until > asked_at,
        "region": wish.region in (None, candidate.region),
        "min_ram_mb": candidate.ram_mb >= wish.min_ram_mb,
        "min_cpu_cores": candidate.cpu_cores >= wish.min_cpu_cores,
        "min_compute_score": candidate.compute_score >= wish.min_compute_score,
        "min_matrix_mflops": device.matrix_mflops >= wish.min_matrix_mflops,
        "min_memory_mb_s": device.memory_mb_s >= wish.min_memory_mb_s,
        "min_disk_mb_s": device.disk_mb_s >= wish.min_disk_mb_s,
        "min_uptime_bp": candidate.uptime_bp >= wish.min_uptime_bp,
        "units": candidate.free >= wish.units,
        "max_price": 0 < _price(wish, candidate) <= min(wish.max_price_grains, MAX_GRAINS),
        "device_offline": rules < 3 or device.online,
        "device_rests": rules < 3 or not device.rests,
    }
    return next((name for name, is_met in met.items() if not is_met), None)


def _scored(wish: Wish, candidate: Candidate) -> Scored:
    price = _price(wish, candidate)
    saving = wish.price_weight * ((wish.max_price_grains - price) * BASIS // wish.max_price_grains)
    uptime = wish.uptime_weight * candidate.uptime_bp
    return Scored(
        candidate.offering_id, saving + uptime, saving, uptime, price, (candidate.device or NOTHING_KNOWN).measured
    )
