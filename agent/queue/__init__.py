"""The queue on disk, and the ledger that counts in the same transaction."""
