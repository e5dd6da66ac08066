"""One process of the bus storm: a relay or a consumer, run until it is stopped or killed."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg

from infrastructure.blobs import BlobStore
from infrastructure.bus import Bus
from infrastructure.bus_letters import DeadLetterRouter
from infrastructure.database import Database
from infrastructure.inbox import Consumer, Received
from tests import ledger as ledger  # its topics must resolve
from workers.bus_relay import BusRelay

STREAM = "storm"
CONSUMER = "books"


def write_down(connection: psycopg.Connection[Any], got: Received) -> None:
    """The effect that must happen once."""
    connection.execute(
        "INSERT INTO storm_effects (event_id, stream, version, position, deliveries) VALUES (%s, %s, %s, %s, %s)",
        (got.event_id, got.headers["ce-subject"], got.headers["ce-streamversion"], got.position, got.deliveries),
        prepare=True,
    )


def main(role: str) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with (
        Database(os.environ["STORM_DATABASE_URL"], pool_size=2, application=f"storm-{role}") as database,
        Bus(os.environ["STORM_NATS_URL"], STREAM, name=role) as bus,
    ):
        if role == "relay":
            blobs = BlobStore.open(None, home=Path(os.environ["STORM_HOME"]))
            router = threading.Thread(target=DeadLetterRouter(bus, database).run, args=[stopping])
            router.start()
            BusRelay(database, bus, blobs, origin="storm").run(stopping)
            router.join()
        else:
            # Kills come far oftener than in life: a message may be hit by several of them.
            Consumer(
                bus, database, CONSUMER, ["events.>", "log.>"], write_down, ack_wait_s=1.0, max_deliver=50
            ).run(stopping)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
