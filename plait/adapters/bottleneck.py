"""Bottleneck adapters in PEFT's files: W_up f(W_down y + b_down) + b_up behind an output y (arXiv 1902.00751)."""

import re
from typing import NamedTuple

from plait.adapters.spec import AdapterSpec
from plait.adapters.state import Layout, TensorSlot
from plait.errors import ConfigError

ACTIVATION = "gelu"
"""Where a configuration names none."""
NO_WEIGHT = "its adapters are not linear, so they cannot be merged into the base's weights"
"""Why nothing can merge them."""
_NAME = re.compile(r"(?P<module>.+)\.bottleneck_(?P<part>(down|up)\.(weight|bias))")


def activation_of(spec: AdapterSpec) -> str:
    """f, one of `ACTIVATIONS`."""
    return str(spec.peft_config.get("act_fn", ACTIVATION))


class Bottleneck(NamedTuple):
    """One bottleneck, behind one layer of width d: W_down (rank, d) and W_up (d, rank), and their biases."""

    module: str
    down: TensorSlot
    down_bias: TensorSlot
    up: TensorSlot
    up_bias: TensorSlot

    @property
    def width(self) -> int:
        """d, the length of the layer's output."""
        return self.up.shape[0]


def bottlenecks_of(layout: Layout) -> tuple[Bottleneck, ...]:
    """The bottlenecks of a layout, in the order of their modules' names; other tensors (a head) are left out."""
    found: dict[str, dict[str, TensorSlot]] = {}
    for slot in layout.slots:
        if match := _NAME.fullmatch(slot.name):
            found.setdefault(match["module"], {})[match["part"]] = slot
    return tuple(_bottleneck(module, found[module]) for module in sorted(found))


def _bottleneck(module: str, slots: dict[str, TensorSlot]) -> Bottleneck:
    shapes = {part: slot.shape for part, slot in slots.items()}
    rank, width, *_ = (*shapes.get("down.weight", ()), 0, 0)
    expected = {"down.weight": (rank, width), "down.bias": (rank,), "up.weight": (width, rank), "up.bias": (width,)}
    if shapes != expected:
        raise ConfigError(f"bottleneck of '{module}' has the shapes {shapes}, expected {expected}")
    return Bottleneck(module, *(slots[part] for part in expected))
