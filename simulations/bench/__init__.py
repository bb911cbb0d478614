"""Benchmarks, one file each, with their inputs and their baselines; they print rows of one shape (`row`)."""
