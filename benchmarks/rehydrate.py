"""Rehydration of 1,000 events: a wallet from all of them and from a snapshot, against a raw read of the same rows."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.history import History
from benchmarks.library import environment
from benchmarks.table import Row, middle
from domain.kernel import EventLog, new_scope, within
from domain.tokenomics.wallet import Wallet
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log

EVENTS, WALLETS, RUNS = 1_000, 10, 101
ALL = 2**40
RAW = "SELECT version, topic, state FROM log.events WHERE stream = %b ORDER BY version"


class TheirWallet(Aggregate):
    """The same wallet, the library's own way."""

    def __init__(self, owner_id: UUID) -> None:
        self.owner_id = owner_id
        self.posted = 0

    @event("Credited")
    def credit(self, transfer_id: UUID, grains: int) -> None:
        self.posted += grains


def run() -> list[Row]:
    whole, short, raw, theirs, cpu = [], [], [], [], []
    with History() as history:
        database = history.database()
        log = open_event_log(database.url)
        library = Application[UUID](environment(history.database().url))
        wallets = [_wallet(log) for _ in range(WALLETS)]
        others = [_their_wallet(library) for _ in range(WALLETS)]
        assert all(log.load(Wallet, wallet).posted == EVENTS - 1 for wallet in wallets)  # takes the snapshots, too
        assert _snapshots(database) == WALLETS
        with database.connect(Role.WRITER) as connection:
            for number in range(RUNS):
                wallet, other = wallets[number % WALLETS], others[number % WALLETS]
                began = time.process_time()
                whole.append(_ms(partial(log.at_version, Wallet, wallet, ALL)))
                cpu.append((time.process_time() - began) * 1e3)
                raw.append(_ms(partial(_raw, connection, wallet)))
                short.append(_ms(partial(log.load, Wallet, wallet)))
                theirs.append(_ms(partial(library.repository.get, other)))
        library.close()
        log.close()
        database.close()
    mine, limit, peer, snapshot = middle(whole), middle(raw), middle(theirs), middle(short)
    return [
        Row(
            f"rehydrate {EVENTS} events", mine, "ms", "<= 5 x a raw SELECT of the same rows", mine <= 5 * limit,
            limit=limit, peer=peer, note=f"{middle(cpu)} ms of it are CPU in Python, the read of the rows among them",
        ),
        Row(
            f"rehydrate {EVENTS} events from a snapshot", snapshot, "ms", "<= 1 ms", snapshot <= 1,
            limit=limit, peer=peer,
        ),
    ]  # fmt: skip


def _wallet(log: EventLog) -> UUID:
    with within(new_scope("operator:benchmark")):
        wallet = Wallet(wallet_id=uuid4(), owner_id=uuid4())
        for _ in range(EVENTS - 1):
            wallet._credited(transfer_id=uuid4(), grains=1)
        log.record(wallet)
    return wallet.id


def _their_wallet(library: Application[UUID]) -> UUID:
    wallet = TheirWallet(uuid4())
    for _ in range(EVENTS - 1):
        wallet.credit(uuid4(), 1)
    library.save(wallet)
    return wallet.id


def _raw(connection: psycopg.Connection[Any], wallet: UUID) -> None:
    with connection.cursor(binary=True) as cursor:
        assert len(cursor.execute(RAW, (wallet,), prepare=True).fetchall()) == EVENTS


def _snapshots(database: Database) -> int:
    with psycopg.connect(database.url) as connection:
        row = connection.execute("SELECT count(*) FROM engine.snapshots").fetchone()
    assert row is not None
    return int(row[0])


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3
