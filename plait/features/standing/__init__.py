"""A standing server: a queue of runs, which an operator submits, served to clients that stay connected."""
