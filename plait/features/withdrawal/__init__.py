"""Withdrawal: the adapter of a federation as if a client had never joined, and a record that says so."""
