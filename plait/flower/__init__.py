"""Flower's side of plait: its Grid as a `Channel`, its apps over plait's parts, its strategies as rules."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from plait.aggregation import RULES, Rule
from plait.settings.choice import Choices

if TYPE_CHECKING:
    from plait.flower.compressed import Compressed
    from plait.flower.compression import compression_mod

__all__ = ["ALL_RULES", "FLOWER_RULES", "Compressed", "compression_mod"]


def _rules() -> Mapping[str, Rule]:
    from plait.flower.rules import BULYAN, KRUM, MULTI_KRUM  # most runs name none

    return {"bulyan": BULYAN, "krum": KRUM, "multi_krum": MULTI_KRUM}


FLOWER_RULES: Choices[Rule] = Choices((("bulyan", "krum", "multi_krum"), _rules))
"""Flower's strategies as rules."""

ALL_RULES: Choices[Rule] = Choices(
    (tuple(RULES), lambda: RULES), (tuple(FLOWER_RULES), lambda: FLOWER_RULES), alphabetical=True
)
"""plait's rules and Flower's, by name."""

_HOMES = {"Compressed": "plait.flower.compressed", "compression_mod": "plait.flower.compression"}

# plait's own nodes import the names above, and need no Flower.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'plait.flower' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)
