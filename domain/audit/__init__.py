"""Audit: a Merkle tree over the log, signed checkpoints and proofs. Pure computation."""
