"""Adapters to the world: settings, event store, databases, blobs, keys and embedded servers."""
