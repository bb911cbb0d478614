"""Tasks on a base in torch."""
