"""Durable payments between random wallets, holds checked, by 8 callers, against bare INSERTs of one row."""

import functools
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError

from benchmarks.bare import THREADS, Bare, rate_of
from benchmarks.history import History
from benchmarks.library import environment
from benchmarks.table import Row, middle
from domain.kernel import EventLog, new_scope, within
from domain.tokenomics.accounts import TREASURY, wallet_id_of
from domain.tokenomics.legs import credits
from domain.tokenomics.service import TokenomicsService
from domain.tokenomics.transfer import Leg, Transfer
from domain.tokenomics.wallet import Wallet
from infrastructure.event_store import open_event_log

CALLERS, WALLETS, RUNS = 8, 500, 7
FUNDS, HELD = 10**9, 10**6
"""Grains each wallet begins with, and those of them that its open hold keeps."""


class TheirWallet(Aggregate):
    """The same rule, the library's own way."""

    def __init__(self) -> None:
        self.posted = FUNDS

    @event("Debited")
    def debit(self, transfer_id: UUID, grains: int) -> None:
        assert grains <= self.posted - HELD
        self.posted -= grains

    @event("Credited")
    def credit(self, transfer_id: UUID, grains: int) -> None:
        self.posted += grains


def run() -> list[Row]:
    ours, raw, theirs, cpu = [], [], [], []
    with History() as history:
        database = history.database()
        log = open_event_log(database.url)
        tokens, owners = TokenomicsService(log), _funded(log)
        bare = Bare(database)
        library = Application[UUID](environment(history.database().url))
        wallets = [TheirWallet() for _ in range(WALLETS)]
        library.save(*wallets)
        paying = [functools.partial(_pay, tokens, owners)] * CALLERS
        others = [functools.partial(_pay_theirs, library, [wallet.id for wallet in wallets])] * CALLERS
        counts: list[int] = []
        for _ in range(RUNS):
            before = history.cpu_s(), time.process_time()
            ours.append(rate_of(paying, counts))
            cpu.append([(time.process_time() - before[1]) / counts[-1], (history.cpu_s() - before[0]) / counts[-1]])
            raw.append(bare.rate(bare.autocommit))
            theirs.append(rate_of(others))
        _check(log, owners, paid=sum(counts))
        library.close()
        log.close()
        database.close()
    mine, limit = middle(ours), middle(raw)
    python_us, server_us = (middle([run[part] * 1e6 for run in cpu]) for part in (0, 1))
    return [
        Row(
            f"transfers, {CALLERS} callers", mine, "transfers/s", f">= 0.27 x raw INSERTs of {THREADS} threads",
            mine >= 0.27 * limit, limit=limit, peer=middle(theirs),
            note=f"three events each; CPU a transfer: {python_us:.0f} us in Python, {server_us:.0f} us in the server; "
            "the peer is the plain library, which tries again after a conflict",
        )
    ]  # fmt: skip


def _funded(log: EventLog) -> list[UUID]:
    """Owners of wallets with funds, part of them held."""
    owners, transfer_id, now = [uuid4() for _ in range(WALLETS)], uuid4(), datetime.now(UTC)
    legs = [Leg(TREASURY, -FUNDS * WALLETS), *(Leg(wallet_id_of(owner), FUNDS) for owner in owners)]
    with within(new_scope("operator:benchmark")):
        opened = [Wallet(wallet_id=wallet_id_of(owner), owner_id=owner) for owner in owners]
        log.record(*opened, Transfer.post(transfer_id, "reward", legs), *credits(transfer_id, legs))
    for owner in owners:
        with within(new_scope("operator:benchmark")):
            wallet = log.load(Wallet, wallet_id_of(owner))
            wallet.hold(uuid4(), HELD, now.replace(year=now.year + 1), "benchmark", now)
            log.record(wallet)
    return owners


def _pay(tokens: TokenomicsService, owners: Sequence[UUID]) -> None:
    payer, payee = random.sample(owners, 2)
    with within(new_scope("operator:benchmark")):
        tokens.process_payment(
            payment_id=str(uuid4()), from_owner_id=payer, to_owner_id=payee, grains=random.randint(1, 1_000)
        )


def _pay_theirs(library: Application[UUID], wallets: Sequence[UUID]) -> None:
    ids, transfer_id, grains = random.sample(wallets, 2), uuid4(), random.randint(1, 1_000)
    while True:
        payer: TheirWallet = library.repository.get(ids[0])
        payee: TheirWallet = library.repository.get(ids[1])
        payer.debit(transfer_id, grains)
        payee.credit(transfer_id, grains)
        try:
            library.save(payer, payee)
            return
        except IntegrityError:
            continue


def _check(log: EventLog, owners: Sequence[UUID], paid: int) -> None:
    """No grain is made or lost, no hold is touched, and what was acknowledged stands."""
    wallets = [log.load(Wallet, wallet_id_of(owner)) for owner in owners]
    assert sum(wallet.posted for wallet in wallets) == FUNDS * WALLETS
    assert all(wallet.held == HELD for wallet in wallets)
    assert log.head() == 1 + 3 * WALLETS + 3 * paid, "a payment is three events"
