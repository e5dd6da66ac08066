"""The village command: the only composition root."""
