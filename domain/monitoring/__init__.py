"""Monitoring: what operators do to the running village, as facts."""

from .projection import Projection
from .service import MonitoringService

__all__ = ["MonitoringService", "Projection"]
