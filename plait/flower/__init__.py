"""Flower's side of plait: its Grid as a `Channel`, its apps over plait's parts, its strategies as rules."""

from __future__ import annotations

from collections.abc import Mapping

from plait.aggregation import RULES, Rule
from plait.settings.choice import Choices

__all__ = ["ALL_RULES", "FLOWER_RULES"]


def _rules() -> Mapping[str, Rule]:
    from plait.flower.rules import BULYAN, KRUM, MULTI_KRUM  # most runs name none

    return {"bulyan": BULYAN, "krum": KRUM, "multi_krum": MULTI_KRUM}


FLOWER_RULES: Choices[Rule] = Choices((("bulyan", "krum", "multi_krum"), _rules))
"""Flower's strategies as rules."""

ALL_RULES: Choices[Rule] = Choices(
    (tuple(RULES), lambda: RULES), (tuple(FLOWER_RULES), lambda: FLOWER_RULES), alphabetical=True
)
"""plait's rules and Flower's, by name."""
