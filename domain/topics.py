"""Every context imported, so that every stored topic resolves: import this before reading the log."""

from domain.device_registry import device as device
from domain.device_registry import reputation as reputation
from domain.sagas import deadline as deadline
