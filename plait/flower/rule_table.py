"""plait's rules and Flower's, by name."""

from __future__ import annotations

from plait.aggregation import RULES, Rule
from plait.places import OnDemand

FLOWER_RULES: OnDemand[Rule] = OnDemand(
    {
        "bulyan": "plait.flower.rules:BULYAN",
        "krum": "plait.flower.rules:KRUM",
        "multi_krum": "plait.flower.rules:MULTI_KRUM",
    }
)
"""Flower's strategies as rules."""

ALL_RULES: OnDemand[Rule] = RULES | FLOWER_RULES
"""Both."""
