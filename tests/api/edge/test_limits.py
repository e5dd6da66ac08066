"""How often somebody may ask: a window that moves with the time."""

from collections.abc import Callable

import pytest

from api.edge import limits
from api.edge.limits import RateLimiter
from api.edge.problems import RateLimited


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def limiter(watch: Watch) -> RateLimiter:
    return RateLimiter(10, {"member": 3}, watch)


def refused(hit: Callable[[], None]) -> int:
    """For how many seconds."""
    with pytest.raises(RateLimited) as refusal:
        hit()
    return refusal.value.retry_after_s


def test_the_window_moves_with_each_request_and_says_when_the_oldest_leaves_it(
    limiter: RateLimiter, watch: Watch
) -> None:
    for watch.at in (0.0, 4.0, 8.0):
        limiter.hit("member", "ada")
    watch.at = 8.5
    assert refused(lambda: limiter.hit("member", "ada")) == 2
    watch.at = 10.0
    limiter.hit("member", "ada")
    assert refused(lambda: limiter.hit("member", "ada")) == 4


def test_what_is_refused_is_not_counted(limiter: RateLimiter, watch: Watch) -> None:
    for _ in range(3):
        limiter.hit("member", "ada")
    for watch.at in (1.0, 9.0):
        refused(lambda: limiter.hit("member", "ada"))
    watch.at = 10.0
    limiter.hit("member", "ada")


def test_of_too_many_only_who_asked_longest_ago_is_forgotten(
    limiter: RateLimiter, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_KEYS", 2)
    for name in ("ada", "grace", "ada", "ada", "edsger"):
        limiter.hit("member", name)
    refused(lambda: limiter.hit("member", "ada"))
    for _ in range(3):
        limiter.hit("member", "grace")
