"""Payments as a DBOS workflow, DBOS' recommended way on Postgres.

A payment is a workflow on a registered queue. Every step that writes is a transaction of a datasource: its effect and
its checkpoint commit together in the database of the application, so that it happens exactly once; the step that only
reads is a plain step. System tables are in a second database of the same server.

Settings: one process with 16 workflows at a time (`worker_concurrency`, and as many threads and connections in both
pools), READ COMMITTED with row locks (the default, SERIALIZABLE, is slower), a queue polled every 20 ms (default 1 s),
no telemetry, a fixed application version and executor id, so that a restarted process recovers what it had begun.

A process of its own runs `python -m benchmarks.payments.peer URL SYSTEM_URL`.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, SQLAlchemyDatasource, run_dbos_database_migrations

from benchmarks.payments import CAPACITY, FUNDS, PRICE, Payment, customers, offering_of, providers

AT_A_TIME = 16
POLL_S = 0.02
QUEUE, WORKFLOW, VERSION = "payments", "pay", "1"
SCHEMA = """
CREATE TABLE wallets (owner_id uuid PRIMARY KEY, posted bigint NOT NULL, held bigint NOT NULL,
    CHECK (held >= 0 AND posted >= held));
CREATE TABLE holds (payment_id uuid PRIMARY KEY, owner_id uuid NOT NULL, grains bigint NOT NULL, state text NOT NULL);
CREATE TABLE offerings (offering_id uuid PRIMARY KEY, capacity int NOT NULL, reserved int NOT NULL,
    CHECK (reserved BETWEEN 0 AND capacity));
CREATE TABLE reservations (payment_id uuid PRIMARY KEY, offering_id uuid NOT NULL, units int NOT NULL);
CREATE TABLE transfers (payment_id uuid PRIMARY KEY, payer_id uuid NOT NULL, payee_id uuid NOT NULL,
    grains bigint NOT NULL, credited boolean NOT NULL);
"""


def workflow(datasource: SQLAlchemyDatasource) -> Callable[[str, str, str, str], None]:
    """The payment as a registered workflow: (payment_id, customer_id, provider_id, offering_id)."""
    step = datasource.transaction(isolation_level="READ COMMITTED")

    def one(statement: str, **values: Any) -> None:
        changed = datasource.sql_session().execute(sa.text(statement), values)
        assert changed.rowcount == 1, f"refused: {statement}"  # type: ignore[attr-defined]

    @DBOS.step()
    def verify(customer_id: str) -> None:
        with datasource.engine.connect() as connection:
            query = sa.text("SELECT posted - held FROM wallets WHERE owner_id = :owner")
            assert connection.execute(query, {"owner": customer_id}).scalar_one() >= PRICE

    @step
    def hold(payment_id: str, customer_id: str) -> None:
        one(
            "UPDATE wallets SET held = held + :grains WHERE owner_id = :owner AND posted - held >= :grains",
            owner=customer_id, grains=PRICE,
        )  # fmt: skip
        one("INSERT INTO holds VALUES (:id, :owner, :grains, 'open')", id=payment_id, owner=customer_id, grains=PRICE)

    @step
    def reserve(payment_id: str, offering_id: str) -> None:
        one(
            "UPDATE offerings SET reserved = reserved + 1 WHERE offering_id = :offering AND reserved < capacity",
            offering=offering_id,
        )
        one("INSERT INTO reservations VALUES (:id, :offering, 1)", id=payment_id, offering=offering_id)

    @step
    def capture(payment_id: str, customer_id: str, provider_id: str) -> None:
        one("UPDATE holds SET state = 'captured' WHERE payment_id = :id AND state = 'open'", id=payment_id)
        one(
            "UPDATE wallets SET posted = posted - :grains, held = held - :grains WHERE owner_id = :owner",
            owner=customer_id, grains=PRICE,
        )  # fmt: skip
        one(
            "INSERT INTO transfers VALUES (:id, :payer, :payee, :grains, false)",
            id=payment_id, payer=customer_id, payee=provider_id, grains=PRICE,
        )  # fmt: skip

    @step
    def credit(payment_id: str, provider_id: str) -> None:
        one("UPDATE transfers SET credited = true WHERE payment_id = :id AND NOT credited", id=payment_id)
        one("UPDATE wallets SET posted = posted + :grains WHERE owner_id = :owner", owner=provider_id, grains=PRICE)

    @DBOS.workflow(name=WORKFLOW)
    def pay(payment_id: str, customer_id: str, provider_id: str, offering_id: str) -> None:
        verify(customer_id)
        hold(payment_id, customer_id)
        reserve(payment_id, offering_id)
        capture(payment_id, customer_id, provider_id)
        credit(payment_id, provider_id)

    return pay


class DbosPayments:
    """The client's side of payments with DBOS: it enqueues workflows, and looks at balances."""

    name = "DBOS"
    module = "benchmarks.payments.peer"

    def __init__(self, url: str, system_url: str) -> None:
        self.urls: tuple[str, ...] = (url, system_url)
        self._client: DBOSClient | None = None

    def close(self) -> None:
        if self._client is not None:
            self._client.destroy()

    def prepare(self) -> None:
        """Make the tables, fund the customers and publish the offerings."""
        wallets = [(owner_id, FUNDS) for owner_id in customers()] + [(owner_id, 0) for owner_id in providers()]
        run_dbos_database_migrations(self.urls[1])
        with psycopg.connect(self.urls[0]) as connection, connection.cursor() as cursor:
            cursor.execute(SCHEMA)
            cursor.executemany("INSERT INTO wallets VALUES (%s, %s, 0)", wallets)
            offerings = [(offering_of(owner_id), CAPACITY) for owner_id in providers()]
            cursor.executemany("INSERT INTO offerings VALUES (%s, %s, 0)", offerings)

    def submit(self, payment: Payment) -> None:
        """Enqueue the workflow of a payment, under the payment's id."""
        self._client = self._client or DBOSClient(system_database_url=self.urls[1], system_database_pool_size=8)
        options: EnqueueOptions = {
            "queue_name": QUEUE,
            "workflow_name": WORKFLOW,
            "workflow_id": str(payment.payment_id),
            "app_version": VERSION,
        }
        owners = str(payment.customer_id), str(payment.provider_id)
        self._client.enqueue(options, str(payment.payment_id), *owners, str(payment.offering_id))

    def steps(self) -> int:
        """How many steps have been done."""
        return self._count("SELECT count(*) FROM dbos.operation_outputs")

    def ended(self) -> int:
        """How many payments have ended."""
        return self._count("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'")

    def _count(self, query: LiteralString) -> int:
        with psycopg.connect(self.urls[1]) as connection:
            ((count,),) = connection.execute(query).fetchall()
        return int(count)

    def balances(self) -> dict[UUID, int]:
        """What every owner has, none of it held back."""
        with psycopg.connect(self.urls[0]) as connection:
            rows = connection.execute("SELECT owner_id, posted, held FROM wallets").fetchall()
        assert not any(held for _, _, held in rows), "a payment has ended and its hold has not"
        return {owner_id: posted for owner_id, posted, _ in rows}


def work(url: str, system_url: str) -> None:
    """Run workflows until killed."""
    config: DBOSConfig = {
        "name": "payments",
        "system_database_url": system_url,
        "sys_db_pool_size": AT_A_TIME,
        "max_executor_threads": AT_A_TIME,
        "application_version": VERSION,
        "executor_id": "worker",
        "log_level": "ERROR",
    }
    DBOS(config=config)
    pool = {"pool_size": AT_A_TIME, "max_overflow": 0}
    workflow(SQLAlchemyDatasource.create(url, engine_kwargs=pool))
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=AT_A_TIME, polling_interval_sec=POLL_S)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    work(*sys.argv[1:])
