"""What a run records: its events, the ledger of them, and the views folded from it."""
