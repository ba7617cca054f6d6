"""The ledger: every reply ever bought, on disk."""
