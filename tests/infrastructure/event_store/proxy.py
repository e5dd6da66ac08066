"""A unix-socket proxy at the edge of the world: it cuts the log writer's connection after so many bytes."""

import contextlib
import socket
import threading
from pathlib import Path
from typing import Literal
from urllib.parse import quote

Direction = Literal["up", "down"]
SOCKET = ".s.PGSQL.5432"


class CuttingProxy:
    """Stands between the clients and the server in `target` (a socket folder), itself reached in `folder`.

    Only the connection that takes the log's lock is counted and cut. Cutting closes both sides at once: whatever
    was passed on reaches the server, and no answer comes back.
    """

    def __init__(self, target: Path, folder: Path) -> None:
        self.counted: dict[Direction, int] = {"up": 0, "down": 0}
        self.cuts = 0
        self._target, self._folder = target, folder
        self._armed: tuple[Direction, int] | None = None
        self._lock = threading.Lock()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(folder / SOCKET))
        self._server.listen(50)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, server_url: str) -> str:
        """The server's url, through the proxy."""
        return server_url.split("?host=")[0] + f"?host={quote(str(self._folder), safe='')}"

    def arm(self, direction: Direction, after_bytes: int) -> None:
        """Cut once, when that many more bytes have gone in a direction."""
        with self._lock:
            self._armed = (direction, after_bytes)

    def disarm(self) -> None:
        with self._lock:
            self._armed = None

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._target / SOCKET))
                link = _Link(client, server)
                for direction in ("up", "down"):
                    threading.Thread(target=self._pump, args=(link, direction), daemon=True).start()

    def _pump(self, link: "_Link", direction: Direction) -> None:
        source, sink = (link.client, link.server) if direction == "up" else (link.server, link.client)
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                link.writes |= b"pg_advisory_xact_lock" in data
                passed = self._passed(link, direction, data)
                sink.sendall(data if passed is None else data[:passed])
                if passed is not None:
                    break
        link.close()

    def _passed(self, link: "_Link", direction: Direction, data: bytes) -> int | None:
        """How many of these bytes may still pass before the cut, or None for all of them and no cut."""
        with self._lock:
            if not link.writes:
                return None
            self.counted[direction] += len(data)
            if self._armed is None or self._armed[0] != direction:
                return None
            left = self._armed[1]
            if left > len(data):
                self._armed = (direction, left - len(data))
                return None
            self._armed = None
            self.cuts += 1
            return left


class _Link:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.writes = False

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
