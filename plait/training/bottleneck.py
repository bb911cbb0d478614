"""Bottleneck adapters as a method of PEFT, which importing this module registers, so that PEFT reads what plait wrote.

For the output y of a half's last linear layer: y + W_up f(W_down y + b_down) + b_up, with W_down (rank, d) and
W_up (d, rank); W_up and the biases start at zero. Behind both halves of a block: Houlsby et al., arXiv 1902.00751;
behind the feedforward half: Pfeiffer et al., arXiv 2005.00247.
"""

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from plait.adapters.bottleneck import ACTIVATION, NO_WEIGHT
from plait.adapters.peft_settings import BOTTLENECK_ACTIVATIONS
from plait.adapters.spec import BOTTLENECK_TYPE

PREFIX = "bottleneck_"

Tensor = torch.Tensor


@dataclass
class BottleneckConfig(PeftConfig):
    """PEFT's configuration of bottleneck adapters, which are put behind the layers with these ends of their names."""

    r: int = field(default=8)
    act_fn: str = field(default=ACTIVATION)
    target_modules: list[str] | set[str] | str | None = field(default=None)
    exclude_modules: list[str] | set[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK_TYPE
        if self.r < 1:
            raise ValueError(f"`r` is {self.r}, expected a positive width")
        if self.act_fn not in BOTTLENECK_ACTIVATIONS:
            raise ValueError(f"`act_fn` is {self.act_fn!r}, expected one of {', '.join(BOTTLENECK_ACTIVATIONS)}")
        # PEFT matches lists only as sets: a text is a regular expression to it, or ``all-linear``.
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer with adapters behind it, which all read the layer's own output."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("r", "activations")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.r: dict[str, int] = {}
        self.activations: dict[str, str] = {}
        self.bottleneck_down = nn.ModuleDict({})
        self.bottleneck_up = nn.ModuleDict({})
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.out_features = _width(self.get_base_layer())
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter of that name, which changes nothing yet."""
        self.r[adapter_name], self.activations[adapter_name] = config.r, config.act_fn
        down, up = nn.Linear(self.out_features, config.r), nn.Linear(config.r, self.out_features)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self._move_adapter_to_device_of_base_layer(adapter_name)  # pyright: ignore[reportUnknownMemberType]
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """The layer's output y, and for each active adapter W_up f(W_down y + b_down) + b_up."""
        result = y = cast("Tensor", self.base_layer(x, *args, **kwargs))
        for name in () if self.disable_adapters else self.active_adapters:
            if name in self.bottleneck_down:
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                inner = activated(cast("Tensor", down(y.to(down.weight.dtype))), self.activations[name])
                result = result + cast("Tensor", up(inner)).to(y.dtype)
        return result


class BottleneckModel(BaseTuner):
    """Puts a `BottleneckLayer` in the place of every target."""

    prefix = PREFIX
    tuner_layer_cls = BottleneckLayer
    # The targets are always named.
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (as PEFT declares it)

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        del current_key, parameter_name
        config = cast("BottleneckConfig", peft_config)
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, config)
            return
        layer = BottleneckLayer(target, adapter_name, config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(requires_grad=False)
        self._replace_module(parent, target_name, layer, target)  # pyright: ignore[reportUnknownMemberType]

    def _check_merge_allowed(self) -> None:
        raise ValueError(f"a bottleneck adapter cannot be merged: {NO_WEIGHT}; load the adapter on its base instead")


_FUNCTIONS = {"gelu": nn.functional.gelu, "relu": torch.relu, "silu": nn.functional.silu, "tanh": torch.tanh}


def activated(x: Tensor, activation: str) -> Tensor:
    """f(x), elementwise."""
    return _FUNCTIONS[activation](x)


def _width(layer: nn.Module) -> int:
    if isinstance(layer, Conv1D):
        return layer.nf
    if isinstance(layer, nn.Linear):
        return layer.out_features
    raise NotImplementedError(f"bottleneck adapters go behind linear layers, not behind {type(layer).__name__}")


def register() -> None:
    """Add the method to PEFT's tables: its own function accepts only members of an enumeration."""
    tables = PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
    for table, own in zip(tables, (BottleneckConfig, BottleneckModel, PREFIX), strict=True):
        cast("dict[str, object]", table).setdefault(BOTTLENECK_TYPE, own)


register()
