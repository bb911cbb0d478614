"""A Flower app that carries bytes to every node and back."""
