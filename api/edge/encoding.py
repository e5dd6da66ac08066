"""JSON of the edge: one fast encoder for answers."""

from typing import Any

import orjson


def dumps(value: Any) -> bytes:
    """JSON bytes; UUIDs and datetimes (UTC, RFC 3339) are written as strings."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)
