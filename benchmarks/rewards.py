"""A reward batch that pays 500 wallets in one transaction, against COPY of 500 rows of the same log."""

import base64
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from statistics import fmean
from uuid import UUID, uuid4

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.history import History
from benchmarks.library import environment
from benchmarks.table import Row, middle
from domain.device_registry.capabilities import Capabilities
from domain.device_registry.device import Device
from domain.kernel import EventLog, new_scope, within
from domain.sagas.forfeit import which_forfeit
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.pricing import Activity
from domain.tokenomics.service import TokenomicsService
from domain.tokenomics.wallet import Wallet
from infrastructure.event_store import open_event_log

WALLETS, RUNS, TARGET = 500, 15, 20_000
OUT = (
    "COPY (SELECT * FROM log.events WHERE position > {} AND topic = 'tokenomics.Wallet.Credited' ORDER BY position)"
    " TO STDOUT (FORMAT BINARY)"
)
IN = "COPY bench.events FROM STDIN (FORMAT BINARY)"


class TheirWallet(Aggregate):
    """A wallet, the library's own way."""

    def __init__(self) -> None:
        self.posted = 0

    @event("Credited")
    def credit(self, transfer_id: UUID, grains: int) -> None:
        self.posted += grains


def run() -> list[Row]:
    ours, limits, theirs, python_s, server_s = [], [], [], [], []
    with History() as history:
        database = history.database()
        log = open_event_log(database.url)
        tokens = TokenomicsService(log, forfeiting=partial(which_forfeit, log))
        library = Application[UUID](environment(history.database().url))
        owners, wallets = [uuid4() for _ in range(WALLETS)], [TheirWallet() for _ in range(WALLETS)]
        devices = [_enrolled(log, owner) for owner in owners]
        library.save(*wallets)
        others = [wallet.id for wallet in wallets]
        paid = 0
        with psycopg.connect(database.url, autocommit=True) as admin, ThreadPoolExecutor(16) as pool:
            admin.execute("CREATE SCHEMA bench")
            admin.execute("CREATE TABLE bench.events (LIKE log.events INCLUDING ALL)")
            for _ in range(RUNS):
                activity_id = uuid4()
                claims = list(pool.map(partial(_accrue, tokens, activity_id), owners, devices))
                base = log.head()
                before = history.cpu_s(), time.process_time()
                ours.append(_rate(partial(_distribute, tokens, claims)))
                python_s.append(time.process_time() - before[1])
                server_s.append(history.cpu_s() - before[0])
                paid += WALLETS
                with admin.cursor().copy(OUT.format(base).encode()) as out:
                    rows = b"".join(out)
                limits.append(_rate(partial(_copy, admin, rows)))
                theirs.append(_rate(partial(_credit_theirs, library, others)))
            copied = admin.execute("SELECT count(*) FROM bench.events").fetchone()
            assert copied == (paid,), f"{copied} of {paid} credits"
        _check(log, owners)
        library.close()
        log.close()
        database.close()
    mine = middle(ours)
    python_us, server_us = (fmean(spent) / WALLETS * 1e6 for spent in (python_s, server_s))
    return [
        Row(
            f"reward batch of {WALLETS} wallets", mine, "credits/s", f">= {TARGET} credits/s", mine >= TARGET,
            limit=middle(limits), peer=middle(theirs),
            note="a credit is two events, one leg of the transfer and a look at the device, that it is not suspended; "
            f"CPU a credit: {python_us:.0f} us in Python, {server_us:.0f} us in the server; one "
            "thread decides the whole batch before it is recorded; the limit is COPY of the credits alone, the "
            "peer the plain library",
        )
    ]  # fmt: skip


def _enrolled(log: EventLog, owner: UUID) -> UUID:
    """A device of this owner, as the registry has it."""
    keys = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    signs, agrees = (base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in keys)
    with within(new_scope("operator:benchmark")) as asked:
        expires_at = asked.now + timedelta(hours=1)
        device = Device.claim(
            device_id=uuid4(), owner_id=owner, claim_sha256="0" * 64, expires_at=expires_at, now=asked.now
        )
        device.enrol(
            device_type="laptop",
            region="eu",
            ed25519_pub=signs,
            x25519_pub=agrees,
            capabilities=Capabilities(8_192, 8, 12_000, ["pytorch"], ["federated_learning"], "matmul-f32-v1"),
            now=asked.now,
        )
        log.record(device)
    return device.id


def _accrue(tokens: TokenomicsService, activity_id: UUID, owner: UUID, device: UUID) -> UUID:
    activity = Activity("fl_participation", activity_id, device, owner, 60_000, 10_000)
    with within(new_scope("operator:benchmark")):
        claim_id = tokens.accrue_reward(activity=activity).id
    assert claim_id is not None
    return claim_id


def _distribute(tokens: TokenomicsService, claims: Sequence[UUID]) -> None:
    with within(new_scope("operator:benchmark")):
        receipt = tokens.distribute_rewards(batch_id=uuid4(), claim_ids=claims)
    assert receipt.extra["posted"] == WALLETS, receipt


def _copy(admin: psycopg.Connection, rows: bytes) -> None:
    with admin.transaction(), admin.cursor().copy(IN) as copy:
        copy.write(rows)


def _credit_theirs(library: Application[UUID], wallets: Sequence[UUID]) -> None:
    transfer_id, loaded = uuid4(), []
    for wallet_id in wallets:
        wallet: TheirWallet = library.repository.get(wallet_id)
        wallet.credit(transfer_id, 1)
        loaded.append(wallet)
    library.save(*loaded)


def _check(log: EventLog, owners: Sequence[UUID]) -> None:
    balances = {log.load(Wallet, wallet_id_of(owner)).posted for owner in owners}
    assert len(balances) == 1, "every wallet was paid the same"


def _rate(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return WALLETS / (time.perf_counter() - began)
