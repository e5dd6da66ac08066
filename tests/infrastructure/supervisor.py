"""A process that starts a village's servers, commits rows, says so, and waits to be killed."""

import sys
from itertools import count
from pathlib import Path

import psycopg

from infrastructure.embedded.nats import EmbeddedNats
from infrastructure.embedded.postgres import EmbeddedPostgres

home = Path(sys.argv[1])
postgres, nats = EmbeddedPostgres(home), EmbeddedNats(home)
url = postgres.start()
nats.start()
print(postgres.pid, nats.pid, nats.url, flush=True)
with psycopg.connect(url, autocommit=True) as connection:
    connection.execute("CREATE TABLE IF NOT EXISTS kept (number bigint)")
    for number in count():
        connection.execute("INSERT INTO kept VALUES (%s)", [number])
        print(number, flush=True)
