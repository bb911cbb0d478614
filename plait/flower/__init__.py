"""Flower's side of plait: its Grid as a `Channel`, its apps over plait's parts, its strategies as rules.

The only package that imports flwr. It knows the round loop's seam and plait's bytes, no model and no configuration.
"""
