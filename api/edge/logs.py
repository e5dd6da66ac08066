"""Structured logs: one JSON object a line, with the correlation id of the request or command it belongs to."""

import logging
import sys
from typing import Any

import orjson
import structlog


def _serializer(value: Any, **_: Any) -> str:
    return orjson.dumps(value, default=str).decode()


_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def through_standard_library(level: str = "INFO") -> None:
    """Make structlog hand its lines, as dicts, to the standard library's loggers."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def configure(level: str = "INFO") -> None:
    """Log as JSON to stderr from `level` up; what uvicorn and other libraries log is written the same way."""
    through_standard_library(level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_serializer),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
