"""A base in memory, and whether it is again what was loaded once an adapter has been taken off it.

Adapters of any method are put on and taken off without reading the base again. PEFT removes most of them completely; a
method that changes the base (biases, another type) is noticed, and the base is read again. The input embedding may lie
in the host's memory: its rows are gathered there and copied to the device. Knows no file and no adapter's values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

_Modules = tuple[tuple[str, int], ...]
_Tensors = dict[str, tuple[object, ...]]


@dataclass(eq=False)
class BareBase:
    """A loaded base.

    Attributes:
        model: the base; with an adapter on, while one is.
        loaded_as: what decides how it is loaded: two that are equal are the same base.
    """

    model: PreTrainedModel
    loaded_as: tuple[object, ...]
    _modules: _Modules = field(init=False)
    _tensors: _Tensors = field(init=False)
    _attributes: frozenset[str] = field(init=False)
    _embedding: str = field(init=False)
    _home: torch.device = field(init=False)

    def __post_init__(self) -> None:
        embedding = self.model.get_input_embeddings()
        names = [name for name, module in self.model.named_modules() if module is embedding]
        self._embedding = names[0] if type(embedding) is nn.Embedding and names else ""
        if self._embedding:
            device = self._home = cast("nn.Embedding", embedding).weight.device
            # For models that PEFT's modules compute; `fused` looks rows up itself.
            embedding.register_forward_pre_hook(_ids_to_rows)
            embedding.register_forward_hook(lambda _module, _given, rows: rows.to(device))
        self._modules, self._tensors = _modules(self.model), _tensors(self.model)
        self._attributes = frozenset(vars(self.model))

    def keep_embedding(self, *, on_host: bool) -> None:
        """Let the input embedding lie in the host's memory, or on the device as the rest does.

        Only where nothing else uses its weight; no value changes.
        """
        if not self._embedding:
            return
        weight = cast("nn.Embedding", self.model.get_submodule(self._embedding)).weight
        where = torch.device("cpu") if on_host else self._home
        if weight.device != where:
            weight.data = weight.data.to(where)
            self._tensors[f"{self._embedding}.weight"] = _state(weight)

    def take_off(self, adapted: PeftModel) -> bool:
        """Take the adapter off; whether the base is then what was loaded, to the last module and value."""
        tuner = adapted.base_model
        # PEFT would leave its copies of what an adapter replaces, such as a classifier's head.
        for name, module in [*self.model.named_modules()]:
            if isinstance(module, ModulesToSaveWrapper):
                self.model.set_submodule(name, module.original_module)
        if isinstance(tuner, BaseTuner):
            try:
                tuner.unload()
            except (AttributeError, NotImplementedError, TypeError, ValueError):
                return False
        for name in vars(self.model).keys() - self._attributes:
            delattr(self.model, name)
        return (_modules(self.model), _tensors(self.model)) == (self._modules, self._tensors)

    def attend_by(self, implementation: str) -> bool:
        """Compute attention in this way from now on; False if the base cannot change it."""
        if self.model.config._attn_implementation != implementation:  # pyright: ignore[reportPrivateUsage]
            self.model.set_attn_implementation(implementation)
        return self.model.config._attn_implementation == implementation  # pyright: ignore[reportPrivateUsage]


def _ids_to_rows(module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (given[0].to(cast("nn.Embedding", module).weight.device), *given[1:])


def _modules(model: nn.Module) -> _Modules:
    return tuple((name, id(module)) for name, module in model.named_modules())


def _tensors(model: nn.Module) -> _Tensors:
    return {name: _state(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _state(tensor: torch.Tensor) -> tuple[object, ...]:
    """Which tensor it is, where its values lie, and how often they have changed."""
    return id(tensor), tensor.untyped_storage()._cdata, tensor.dtype, tensor._version  # pyright: ignore[reportPrivateUsage]
