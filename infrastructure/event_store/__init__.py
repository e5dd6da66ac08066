"""The event log on Postgres: recorder with group commit, reader, and listener."""

from .factory import open_event_log
from .listener import Listener
from .reader import Batch, LogReader

__all__ = ["Batch", "Listener", "LogReader", "open_event_log"]
