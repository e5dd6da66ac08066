"""Reputation rules: how evidence becomes a score, in exact fixed point, each under a number that is recorded."""

from collections.abc import Mapping
from typing import Final

from domain.kernel import Refusal, Value

FULL_WEIGHT_BP = 10_000
_ONE = 10**9


class ReputationRuleUnknown(Refusal):
    """Reputation is scored by one of the rules that are written down, by its number."""


class Rule(Value, frozen=True):
    """Every piece of evidence counts `decay_bp` of the one after it, and a bad one `bad_bp` of a good one.

    The score is (a + prior_good) / (a + b + prior_all) over the decayed sums a of good and b of bad evidence.
    """

    decay_bp: int
    bad_bp: int = FULL_WEIGHT_BP
    prior_good: int = 1
    prior_all: int = 4


RULES: Final[Mapping[int, Rule]] = {
    1: Rule(decay_bp=9_800),
    2: Rule(decay_bp=9_800, bad_bp=20_000),
}
"""What a rule says never changes; a better one gets the next number."""

RULE_VERSION: Final = 1
"""The rule that is live: new evidence is recorded under it. The others are candidates, or of the past."""


def rule_of(version: int) -> Rule:
    """A rule by its number. Raises ReputationRuleUnknown."""
    if version not in RULES:
        raise ReputationRuleUnknown(f"{version} is none of {', '.join(map(str, RULES))}")
    return RULES[version]


class Standing(Value, frozen=True):
    """Decayed sums of good and bad evidence, in billionths. Folding it in any partition gives the same integers."""

    good: int = 0
    bad: int = 0

    @property
    def score_bp(self) -> int:
        """The score under the live rule, in basis points, rounded down: a new device has 2,500 and earns the rest."""
        return self.score_under(RULES[RULE_VERSION])

    def score_under(self, rule: Rule) -> int:
        """The score in basis points, rounded down."""
        return (self.good + rule.prior_good * _ONE) * 10_000 // (self.good + self.bad + rule.prior_all * _ONE)

    def after(self, *, good: bool, weight_bp: int, rule_version: int) -> "Standing":
        """The standing after one more piece of evidence, under the rule of this number."""
        rule = RULES[rule_version]
        kept_good, kept_bad = self.good * rule.decay_bp // 10_000, self.bad * rule.decay_bp // 10_000
        if good:
            return Standing(kept_good + _ONE * weight_bp // FULL_WEIGHT_BP, kept_bad)
        return Standing(kept_good, kept_bad + _ONE * weight_bp * rule.bad_bp // FULL_WEIGHT_BP**2)

    def reckoning(self) -> str:
        """The score with every number it comes from."""
        rule = RULES[RULE_VERSION]
        return (
            f"rule {RULE_VERSION}: ({self.good} + {rule.prior_good} x 10^9) x 10000"
            f" / ({self.good} + {self.bad} + {rule.prior_all} x 10^9) = {self.score_bp}"
        )


NEWCOMER_BP = Standing().score_bp
