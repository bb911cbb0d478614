"""Benchmarks: one file each, and what they are measured on and against; they print rows of one shape (`row`)."""
