"""Servers that a village starts for itself: Postgres and NATS, nothing shared, nothing on a public port."""
