"""While anybody makes many objects garbage is looked for seldom, and as before once all of them are through."""

import gc
from contextlib import ExitStack

import pytest

from domain.kernel.garbage import MAX_UNCOLLECTED, seldom_collected


def test_it_is_as_before_only_when_the_last_one_is_through() -> None:
    before = gc.get_threshold()
    with ExitStack() as second:
        with seldom_collected():  # the first to enter is not the last to leave
            second.enter_context(seldom_collected())
        assert gc.get_threshold() == (MAX_UNCOLLECTED, *before[1:])
    assert gc.get_threshold() == before


def test_a_failure_inside_leaves_it_as_before() -> None:
    before = gc.get_threshold()
    with pytest.raises(RuntimeError), seldom_collected():
        raise RuntimeError("inside")
    assert gc.get_threshold() == before
