"""Bottleneck adapters in PEFT's files: W_up f(W_down y + b_down) + b_up behind an output y (arXiv 1902.00751)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from plait.adapters.spec import AdapterSpec
from plait.adapters.state import Layout, TensorSlot
from plait.errors import ConfigError

ACTIVATION = "gelu"
"""Where a configuration names none."""
NO_WEIGHT = "its adapters are not linear, so they cannot be merged into the base's weights"
"""Why nothing can merge them."""


def activation_of(spec: AdapterSpec) -> str:
    """f, one of `ACTIVATIONS`."""
    return str(spec.peft_config.get("act_fn", ACTIVATION))


_NAME = re.compile(r"^(?P<module>.+)\.bottleneck_(?P<part>(down|up)\.(weight|bias))$")


@dataclass(frozen=True)
class Bottleneck:
    """One bottleneck, behind one layer of width d: W_down (rank, d) and W_up (d, rank), and their biases."""

    module: str
    down: TensorSlot
    down_bias: TensorSlot
    up: TensorSlot
    up_bias: TensorSlot

    @property
    def rank(self) -> int:
        """Width of the bottleneck."""
        return self.down.shape[0]

    @property
    def width(self) -> int:
        """d, the length of the layer's output."""
        return self.up.shape[0]


def bottlenecks_of(layout: Layout) -> tuple[Bottleneck, ...]:
    """The bottlenecks of a layout, in the order of their modules' names; other tensors (a head) are left out."""
    found: dict[str, dict[str, TensorSlot]] = {}
    for slot in layout.slots:
        match = _NAME.match(slot.name)
        if match:
            found.setdefault(match["module"], {})[match["part"]] = slot
    return tuple(_bottleneck(module, found[module]) for module in sorted(found))


def _bottleneck(module: str, slots: dict[str, TensorSlot]) -> Bottleneck:
    down = slots.get("down.weight")
    if down is None or len(down.shape) != 2:
        raise ConfigError(f"bottleneck of '{module}' has no matrix bottleneck_down.weight")
    rank, width = down.shape
    shapes = {"down.weight": (rank, width), "down.bias": (rank,), "up.weight": (width, rank), "up.bias": (width,)}
    for part, shape in shapes.items():
        slot = slots.get(part)
        if slot is None or slot.shape != shape:
            got = "missing" if slot is None else f"of shape {slot.shape}"
            raise ConfigError(f"bottleneck_{part} of '{module}' is {got}, expected {shape}")
    return Bottleneck(module, down, slots["down.bias"], slots["up.weight"], slots["up.bias"])
