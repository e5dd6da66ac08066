"""A kept HTTP/1.1 connection that costs its process hardly anything: for benchmarks whose client shares the machine."""

import asyncio
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)


def post(path: str, fields: Mapping[str, str], body: bytes) -> bytes:
    """A POST of JSON as it goes over the wire; `fields` names the host."""
    named = {**fields, "Content-Type": "application/json", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Line:
    """One request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> "Line":
        """A connection to `http://host:port`."""
        at = urlsplit(url)
        return cls(*await asyncio.open_connection(at.hostname, at.port))

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer, which has to be a 200 of known length."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        assert length is not None, head
        body = await self._reader.readexactly(int(length[1]))
        assert head.startswith(b"HTTP/1.1 200 "), head + body
        return body

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
