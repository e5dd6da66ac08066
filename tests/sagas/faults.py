"""What can go wrong at a stage, as Hypothesis draws it: deaths, lost answers, doubled and late facts."""

from collections.abc import Callable, Mapping
from enum import Enum

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from domain.kernel.errors import LogUnavailable

MAX_WRITES = 60

Oracle = Callable[[], None]
"""Asserts what must hold at an end state."""


class Crash(BaseException):
    """The process ends here; nothing catches it but the stage, which starts another process."""


class Fault(Enum):
    """What happens at a write to the log: the process dies, or only the answer of the database is lost."""

    DIES_BEFORE = (Crash, False)
    DIES_AFTER = (Crash, True)
    LOST_BEFORE = (LogUnavailable, False)
    LOST_AFTER = (LogUnavailable, True)


DEATHS = (Fault.DIES_BEFORE, Fault.DIES_AFTER)
Faults = Mapping[int, Fault]
"""The number of a write, from 1, to what happens there."""
faults: st.SearchStrategy[Faults] = st.dictionaries(st.integers(1, 12), st.sampled_from(Fault), max_size=4)

SOME_ORDER = (3, 1, 0, 7, 2, 0, 5, 1, 11, 0, 13, 4)
deliveries: st.SearchStrategy[list[int]] = st.lists(st.integers(0, 99), max_size=12)
"""Which of the facts known by then comes next, or that time passes."""


stormy = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""For properties over faults and deliveries, in one village."""
