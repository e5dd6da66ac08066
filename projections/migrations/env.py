"""Runs the plain SQL migrations over one connection, one process at a time."""

import psycopg
from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

# Any number, but the same for ever: it keeps two migrating processes apart.
MIGRATION_LOCK = 7_046_029_254
LOCK_TIMEOUT_MS = 60_000


def url() -> str:
    """The database to migrate: the caller's, or else the one in the settings."""
    given = context.config.attributes.get("url")
    if given is not None:
        return str(given)
    from infrastructure.settings import Settings

    settings = Settings()
    if settings.database_url is None:
        raise SystemExit("Set VILLAGE_DATABASE_URL, or use `village db migrate` for the embedded server.")
    return settings.database_url.get_secret_value()


def migrate_online() -> None:
    """Applies what is missing in one transaction, so a failed migration leaves nothing behind."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url()), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
        connection.execute(text("SET TIME ZONE 'UTC'"))
        connection.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
        connection.commit()
        context.configure(connection=connection, target_metadata=None, transaction_per_migration=False)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


if context.is_offline_mode():
    raise SystemExit("Migrations run online only: they hold a lock while they work.")
migrate_online()
