"""A stage for sagas: facts in, facts out, a clock that jumps to the next deadline, crashes, doubled and late facts."""

from .faults import DEATHS, SOME_ORDER, Crash, Fault, Faults, Oracle, deliveries, faults, stormy
from .play import An
from .stage import Stage, StoredTimeline, Timeline
from .worlds import START, Projects, StoredWorld, World

__all__ = [
    "DEATHS",
    "SOME_ORDER",
    "START",
    "An",
    "Crash",
    "Fault",
    "Faults",
    "Oracle",
    "Projects",
    "Stage",
    "StoredTimeline",
    "StoredWorld",
    "Timeline",
    "World",
    "deliveries",
    "faults",
    "stormy",
]
