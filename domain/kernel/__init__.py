"""The shared kernel: what every bounded context is made of."""

from .aggregate import Aggregate, event
from .command import command
from .errors import AggregateNotFound, AlreadyExists, Conflict, Forbidden, NotFound, Refusal
from .event_log import EventLog
from .events import Created, Event, Value
from .fact import Fact
from .ids import derive
from .personal import Personal, PersonalText
from .saga import Saga
from .scope import CommandScope, new_scope, scope, within
from .snapshot import Snapshot, SnapshotPolicy
from .time import Instant
from .unit import Opener
from .write import CursorMove, Receipt

__all__ = [
    "Aggregate",
    "AggregateNotFound",
    "AlreadyExists",
    "CommandScope",
    "Conflict",
    "Created",
    "CursorMove",
    "Event",
    "EventLog",
    "Fact",
    "Forbidden",
    "Instant",
    "NotFound",
    "Opener",
    "Personal",
    "PersonalText",
    "Receipt",
    "Refusal",
    "Saga",
    "Snapshot",
    "SnapshotPolicy",
    "Value",
    "command",
    "derive",
    "event",
    "new_scope",
    "scope",
    "within",
]
