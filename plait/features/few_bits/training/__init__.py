"""Weights of few bits in torch."""
