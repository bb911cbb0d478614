"""A base over several devices, in torch."""
