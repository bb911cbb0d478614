"""Bottleneck adapters in PEFT's files. `bottleneck_layout` has their tensors, `plait.training.bottleneck` the method.

Houlsby et al., arXiv 1902.00751. Knows no PEFT class.
"""

from __future__ import annotations

from plait.adapters.spec import AdapterSpec

PEFT_TYPE = "BOTTLENECK"
"""Of bottleneck adapters in PEFT's files; plait registers it with PEFT."""
ACTIVATIONS = ("gelu", "relu", "silu", "tanh")
ACTIVATION = "gelu"
"""Where a configuration names none."""
NO_WEIGHT = "its adapters are not linear, so they cannot be merged into the base's weights"
"""Why nothing can merge them."""


def is_bottleneck(spec: AdapterSpec) -> bool:
    """Whether an adapter is made of bottlenecks."""
    return spec.peft_config.get("peft_type") == PEFT_TYPE


def activation_of(spec: AdapterSpec) -> str:
    """f, one of `ACTIVATIONS`."""
    return str(spec.peft_config.get("act_fn", ACTIVATION))
