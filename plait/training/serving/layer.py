"""Linear layers that add to every row of a batch the contribution of that row's adapter.

All rows share the frozen product. With one token per row, the factors of all adapters in use lie side by side in one
matrix, every row is multiplied by all of them, and a mask keeps its own part: two thin products, however many adapters
there are, because reading the factors takes longer than multiplying them. With many tokens per row (prompts) that would
be a waste, so there the rows of each adapter are multiplied together, as bottleneck adapters' rows always are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from plait.errors import ConfigError
from plait.training.serving.adapter import ServedAdapter

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class _Stack:
    """The factors of several adapters on one layer.

    Attributes:
        A: (ranks, d_in), all A stacked.
        B: (ranks, d_out), all B' stacked.
        owners: the adapter of each rank, and the scale of its product.
    """

    A: Tensor
    B: Tensor
    owners: tuple[tuple[ServedAdapter, int, float], ...]


class Routing:
    """The adapter of each row of the batch; all layers of one model share one."""

    def __init__(self) -> None:
        self._rows: tuple[ServedAdapter | None, ...] = ()
        self._runs: tuple[tuple[ServedAdapter | None, int, int], ...] = ()
        self._stacked: tuple[ServedAdapter, ...] = ()
        self._stacks: dict[str, _Stack | None] = {}
        self._masks: dict[tuple[tuple[ServedAdapter, int, float], ...], Tensor] = {}

    def assign(self, rows: Sequence[ServedAdapter | None]) -> None:
        """Set the adapter of each row of the next forward passes; None is the base alone."""
        if tuple(rows) == self._rows:
            return
        self._rows = tuple(rows)
        self._masks.clear()
        runs: list[tuple[ServedAdapter | None, int, int]] = []
        for adapter, members in groupby(enumerate(rows), key=lambda row: row[1]):
            indices = [index for index, _ in members]
            runs.append((adapter, indices[0], indices[-1] + 1))
        self._runs = tuple(runs)
        self._restack()

    def add_(self, layer: str, x: Tensor, y: Tensor) -> None:
        """Add to y, (rows, tokens, d_out), the adapters' products with x, (rows, tokens, d_in)."""
        if all(adapter is None for adapter, _, _ in self._runs):
            return
        if x.ndim != 3 or x.shape[0] != len(self._rows):
            raise ConfigError(f"layer '{layer}' of this base mixes the rows of a batch, so adapters cannot share it")
        # A bottleneck reads the frozen layer's own output, and no adapter has both.
        for adapter, first, last in self._runs:
            bottleneck = adapter.bottlenecks.get(layer) if adapter else None
            if bottleneck is not None:
                y[first:last] += bottleneck.of(y[first:last])
        if len(self._runs) > 1 and x.shape[1] == 1:
            self._add_masked_(layer, x[:, 0], y[:, 0])
            return
        for adapter, first, last in self._runs:
            factors = adapter.factors.get(layer) if adapter else None
            if factors is not None:
                inner = x[first:last].flatten(0, 1) @ factors.A.t()
                # y is fresh from the frozen layer, so it is contiguous and the view writes through.
                y[first:last].view(-1, y.shape[2]).addmm_(inner, factors.B.t(), alpha=factors.scale)

    def _add_masked_(self, layer: str, x: Tensor, y: Tensor) -> None:
        if layer not in self._stacks:
            self._stacks[layer] = _stack(layer, self._stacked)
        stack = self._stacks[layer]
        if stack is None:
            return
        mask = self._masks.get(stack.owners)
        if mask is None:
            mask = self._masks[stack.owners] = self._mask(stack)
        y.addmm_((x @ stack.A.t()).mul_(mask), stack.B)

    def _mask(self, stack: _Stack) -> Tensor:
        mask = torch.zeros(len(self._rows), stack.A.shape[0], dtype=stack.A.dtype)
        first = 0
        for adapter, rank, scale in stack.owners:
            for row, owner in enumerate(self._rows):
                if owner is adapter:
                    mask[row, first : first + rank] = scale
            first += rank
        return mask.to(stack.A.device)

    def _restack(self) -> None:
        active = tuple(dict.fromkeys(adapter for adapter in self._rows if adapter is not None))
        # An adapter that is briefly idle stays: removing it costs more than multiplying by it.
        if set(active) <= set(self._stacked) and len(self._stacked) <= 2 * len(active):
            return
        self._stacked = active
        self._stacks.clear()


class RoutedLayer(nn.Module):
    """A frozen linear layer with the adapters of `routing`."""

    def __init__(self, base: nn.Module, name: str, routing: Routing) -> None:
        super().__init__()
        self.base = base
        self._name = name
        self._routing = routing

    @property
    def weight(self) -> Tensor:
        """Of the frozen layer; some models check its type."""
        return cast("Tensor", self.base.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The frozen product plus the adapters'."""
        y = cast("Tensor", self.base(x))
        self._routing.add_(self._name, x, y)
        return y


def route_layers(model: nn.Module) -> Routing:
    """Replace every linear layer of a model by a `RoutedLayer`; returns what they share."""
    routing = Routing()
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Linear, Conv1D)):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, RoutedLayer(module, name, routing))
    return routing


def _stack(layer: str, adapters: Sequence[ServedAdapter]) -> _Stack | None:
    found = [(adapter, adapter.factors[layer]) for adapter in adapters if layer in adapter.factors]
    if not found:
        return None
    return _Stack(
        A=torch.cat([factors.A for _, factors in found]),
        B=torch.cat([factors.B.t() for _, factors in found]),
        owners=tuple((adapter, factors.A.shape[0], factors.scale) for adapter, factors in found),
    )
