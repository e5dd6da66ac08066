"""The API's HTTP server: uvicorn, configured once for the command line and the tests."""

import socket
from typing import cast

import uvicorn
from fastapi import FastAPI

GRACEFUL_SHUTDOWN_S = 8
MAX_CONNECTIONS = 5_000
WS_MESSAGE_BYTES = 256 * 1024
_BACKLOG = 1_024


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening socket and the url it answers at; port 0 takes a free one. Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left at 0, asyncio would not turn Nagle's algorithm off: 40 ms more for every answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    address, bound = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    return listening, f"http://{shown}:{bound}"


class Server(uvicorn.Server):
    """Ends subscriptions first when it stops: they would otherwise use up the time given to requests to finish."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cast(FastAPI, self.config.app).state.feed.end()
        await super().shutdown(sockets)


def server(app: FastAPI) -> Server:
    """A server for `run(sockets=[...])`; it stops within GRACEFUL_SHUTDOWN_S of SIGTERM."""
    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            # Whoever may reach the port could otherwise choose the address that limits and /metrics go by.
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
            timeout_keep_alive=30,
            ws="websockets-sansio",
            ws_max_size=WS_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            lifespan="on",
        )
    )
