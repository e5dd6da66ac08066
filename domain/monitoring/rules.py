"""When an incident opens and when it is over: rules as data, and the pure watch that judges measures by them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WARNING, CRITICAL = "warning", "critical"
MAX_SUBJECTS = 1_000
"""Breaches the watch follows at once; more of them are one and the same calamity."""

Subject = tuple[str, str]
"""Rule and subject."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Opens when a measure was above `limit` for `for_ms`, and is over when it was at most `clear` for `clear_ms`.

    Between `clear` and `limit` nothing changes: that, and the two times, keep a value that swings from opening many.
    """

    name: str
    measure: str
    severity: str
    summary: str
    limit: float
    clear: float
    for_ms: int
    clear_ms: int

    def __post_init__(self) -> None:
        assert self.clear <= self.limit
        assert min(self.for_ms, self.clear_ms) >= 0


RULES: tuple[Rule, ...] = (
    Rule("consumer_lag", "consumer_lag_s", WARNING, "a consumer of the log is behind", 60.0, 10.0, 10_000, 10_000),
    Rule("dead_letters", "dead_letters", WARNING, "a read model holds facts it cannot fold", 0.0, 0.0, 0, 2_000),
    Rule("bus_dead_letters", "bus_dead_letters", WARNING, "messages no consumer could take", 0.0, 0.0, 0, 2_000),
    Rule("supply_drift", "supply_drift_grains", CRITICAL, "accounts do not add up to the issue", 0.0, 0.0, 0, 10_000),
    Rule("seal_age", "seal_age_s", CRITICAL, "the log is not being sealed", 30.0, 5.0, 0, 5_000),
    Rule("parked_sagas", "parked_sagas", WARNING, "sagas wait for an operator", 0.0, 0.0, 0, 2_000),
    Rule("devices_away", "devices_away_bp", WARNING, "most devices are away", 5_000.0, 3_000.0, 60_000, 60_000),
    Rule("device_failing", "device_failures", WARNING, "a device's harvest keeps failing", 2.0, 0.0, 0, 10_000),
)


@dataclass(frozen=True, slots=True)
class Measure:
    """What was measured of whom: `("dead_letters", "wallets", 2.0)`."""

    name: str
    subject: str
    value: float


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule to open an incident by."""

    rule: Rule
    subject: str
    value: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be opened, and which (rule, subject) is over, with the value that says so."""

    opened: list[Breach]
    over: dict[Subject, float]


class Watch:
    """Remembers since when each subject has been above its limit, or clear. A subject that is not measured any more
    is clear: what it was about is gone.
    """

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        self._rules = tuple(rules)
        self._above: dict[Subject, datetime] = {}
        self._clear: dict[Subject, datetime] = {}

    def judge(self, measures: Iterable[Measure], is_open: Iterable[Subject], now: datetime) -> Verdict:
        """What these measures mean, given which incidents are open."""
        by_name: dict[str, dict[str, float]] = {}
        for measure in measures:
            by_name.setdefault(measure.name, {})[measure.subject] = measure.value
        standing = set(is_open)
        verdict = Verdict([], {})
        above: dict[Subject, datetime] = {}
        clear: dict[Subject, datetime] = {}
        for rule in self._rules:
            values: Mapping[str, float] = by_name.get(rule.measure, {})
            for subject, value in values.items():
                key = (rule.name, subject)
                if key not in standing and value > rule.limit and len(above) < MAX_SUBJECTS:
                    above[key] = self._above.get(key, now)
                    if now - above[key] >= timedelta(milliseconds=rule.for_ms):
                        verdict.opened.append(Breach(rule, subject, value))
            for key in standing:
                value = values.get(key[1], rule.clear)
                if key[0] == rule.name and value <= rule.clear:
                    clear[key] = self._clear.get(key, now)
                    if now - clear[key] >= timedelta(milliseconds=rule.clear_ms):
                        verdict.over[key] = value
        self._above, self._clear = above, clear
        return verdict
