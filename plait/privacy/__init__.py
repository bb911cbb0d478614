"""Differential privacy: of clients, whose noise the server adds or they themselves, and of single records."""
