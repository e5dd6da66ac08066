"""What a session has given so far, how good it was, and what is refused of a session."""

from domain.kernel import NotFound, Refusal, Value

BASIS = 10_000


class HarvestSessionUnknown(NotFound):
    """A session is known to its device, its owner and operators."""


class HarvestSessionOver(Refusal):
    """A session that has ended takes nothing any more."""

    status = 409


class Contribution(Value, frozen=True):
    """Milliseconds it ran, the same weighted by duty (which is what is paid), and the samples that show it."""

    run_ms: int
    verified_ms: int
    samples: int


def quality_bp(done: Contribution) -> int:
    """Rule harvest-quality-1, in basis points: the share of the samples that were due, one in 5 s, that came."""
    due = done.run_ms // 5_000
    return BASIS if due == 0 else min(BASIS, done.samples * BASIS // due)
