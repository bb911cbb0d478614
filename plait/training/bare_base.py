"""A base in memory, and whether it is again what was loaded once an adapter has been taken off it.

Adapters of any method are put on and taken off without reading the base again. PEFT takes most of them off without a
trace; a method that changes the base itself (biases, another type) is noticed, and the base has to be read again. Knows
no file and no adapter's values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PreTrainedModel

_Inventory = tuple[tuple[object, ...], ...]


@dataclass(eq=False)
class BareBase:
    """A loaded base.

    Attributes:
        model: the base; with an adapter on, while one is.
        loaded_as: what decides how it is loaded: two that are equal are the same base.
    """

    model: PreTrainedModel
    loaded_as: tuple[object, ...]
    _inventory: _Inventory = field(init=False)
    _attributes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._inventory = _inventory(self.model)
        self._attributes = frozenset(vars(self.model))

    def take_off(self, adapted: PeftModel) -> bool:
        """Take the adapter off; whether the base is then what was loaded, to the last module and value.

        Args:
            adapted: this base with an adapter on.
        """
        tuner = adapted.base_model
        if isinstance(tuner, BaseTuner):
            try:
                tuner.unload()
            except (AttributeError, NotImplementedError, TypeError, ValueError):
                return False
        for name in vars(self.model).keys() - self._attributes:
            delattr(self.model, name)
        return _inventory(self.model) == self._inventory

    def attend_by(self, implementation: str) -> bool:
        """Compute attention in this way from now on; False if the base cannot change it."""
        if self.model.config._attn_implementation != implementation:  # pyright: ignore[reportPrivateUsage]
            self.model.set_attn_implementation(implementation)
        return self.model.config._attn_implementation == implementation  # pyright: ignore[reportPrivateUsage]


def _inventory(model: nn.Module) -> _Inventory:
    """All modules and tensors by identity; a tensor also by where its values lie and how often they have changed."""
    modules = tuple(
        (name, id(module), len(module._forward_hooks), len(module._forward_pre_hooks))  # pyright: ignore[reportPrivateUsage]
        for name, module in model.named_modules()
    )
    tensors = (*model.named_parameters(), *model.named_buffers())
    return modules + tuple((name, id(tensor), *_state(tensor)) for name, tensor in tensors)


def _state(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.untyped_storage()._cdata, tensor.dtype, tensor._version  # pyright: ignore[reportPrivateUsage]
