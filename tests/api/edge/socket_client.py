"""A graphql-transport-ws client for the tests: the protocol spelled out over the websockets library."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

PROTOCOL = Subprotocol("graphql-transport-ws")


class SocketClient:
    """One connection; operations are told apart by their ids."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, **message: Any) -> None:
        self.connection.send(json.dumps(message))

    def receive(self, timeout: float = 60) -> dict[str, Any]:
        received = self.connection.recv(timeout)
        assert isinstance(received, str), "the protocol's frames are text"
        return cast(dict[str, Any], json.loads(received))

    def subscribe(self, query: str, id: str = "1", **variables: Any) -> None:
        self.send(id=id, type="subscribe", payload={"query": query, "variables": variables})

    def next(self, timeout: float = 60) -> dict[str, Any]:
        message = self.receive(timeout)
        assert message["type"] == "next", message
        payload = message["payload"]
        assert "errors" not in payload, payload
        return cast(dict[str, Any], payload["data"])


@contextmanager
def socket(
    url: str,
    parameters: dict[str, Any] | None = None,
    *,
    init: bool = True,
    origin: str | None = None,
    headers: dict[str, str] | None = None,
    slow: bool = False,
) -> Iterator[SocketClient]:
    """A connected client; with `init` it has been acknowledged. A slow one takes frames only as they are asked for."""
    with connect(
        url.replace("http://", "ws://") + "/graphql",
        subprotocols=[PROTOCOL],
        origin=Origin(origin) if origin else None,
        additional_headers=headers or {},
        compression=None,
        proxy=None,
        max_queue=1 if slow else None,
    ) as connection:
        client = SocketClient(connection)
        if init:
            client.send(type="connection_init", payload=parameters or {})
            assert client.receive() == {"type": "connection_ack"}
        yield client
