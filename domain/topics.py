"""Every context imported, so that every stored topic resolves: import this before reading the log."""

from domain.sagas import deadline as deadline
