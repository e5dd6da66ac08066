"""JSON of the edge: fast answers, and strict reading of what comes in."""

import json
from typing import Any

import orjson


def dumps(value: Any) -> bytes:
    """JSON bytes; UUIDs and datetimes (UTC, RFC 3339) are written as strings."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


def loads(data: bytes | str) -> Any:
    """Strict JSON: valid UTF-8, no NaN, bounded nesting, and no NUL in a text, which no database column can hold.

    Raises json.JSONDecodeError.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise json.JSONDecodeError(error.msg, "", error.pos) from None
    escaped = b"\\u0000" if isinstance(data, bytes) else "\\u0000"
    if escaped in data and _holds_nul(value):  # type: ignore[operator]
        raise json.JSONDecodeError("a text holds a NUL", "", data.find(escaped))  # type: ignore[arg-type]
    return value


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(_holds_nul, value))
