"""Causal attention over sequences that lie one after another without padding, forward and backward.

On a CPU it is compiled (`attention.cpp`): one pass from the projections to the mixed values, and one back, holding the
scores of a few queries at a time. Elsewhere, and if nothing could be compiled, it is torch's own
(`library_attention`). Query heads share key heads in groups (arXiv 2305.13245). Knows nothing of layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

import torch

from plait.training.fused.kernels import kernel

if TYPE_CHECKING:
    from plait.training.fused.library_attention import Graph

Tensor = torch.Tensor

_LANES = 16  # a compiled head's width is a multiple of it


@dataclass(frozen=True)
class Heads:
    """Shape of an attention."""

    queries: int
    keys: int
    width: int

    @property
    def scale(self) -> float:
        """Multiplier of the scores."""
        return self.width**-0.5


@dataclass(frozen=True)
class Angles:
    """Rotation by position (RoPE, arXiv 2104.09864).

    Attributes:
        cosine: (longest, width); its halves are equal.
        sine: as cosine.
    """

    cosine: Tensor
    sine: Tensor

    @cached_property
    def signed_sine(self) -> Tensor:
        """The sine, its first half negated."""
        first, second = self.sine.chunk(2, dim=-1)
        return torch.cat((-first, second), dim=-1)

    def turn(self, x: Tensor, *, back: bool = False) -> Tensor:
        """Rotate, or rotate back. x: (count, length, heads, width), of any type."""
        length, width = x.shape[1], x.shape[3]
        cosine, sine = (part[:length, None] for part in (self.cosine, self.signed_sine))
        # The other half of each head: of a turn back it is the same with the opposite sign.
        other = x.roll(width // 2, dims=-1)
        return torch.addcmul(x * cosine, other, sine, value=-1 if back else 1).to(x.dtype)


@dataclass(frozen=True)
class Stretch:
    """Neighbouring sequences of equal length.

    Attributes:
        first: first row.
        count: sequences.
    """

    first: int
    count: int
    length: int

    @property
    def rows(self) -> slice:
        """Their rows."""
        return slice(self.first, self.first + self.count * self.length)


@dataclass(frozen=True)
class Ragged:
    """All sequences of a batch, of several lengths, for one call. Angles are those of every row.

    Attributes:
        bounds: (sequences + 1,) int32, on the device: the first row of each, and the number of rows.
        longest: length of the longest.
        length: of all together.
    """

    bounds: Tensor
    longest: int
    length: int

    count = 1

    @property
    def rows(self) -> slice:
        """Their rows."""
        return slice(0, self.length)


Place = Stretch | Ragged
"""Where sequences are that are computed at once."""


def stretches(lengths: Sequence[int]) -> tuple[Stretch, ...]:
    """Sequences of these lengths, one after another, as the fewest possible stretches."""
    found: list[Stretch] = []
    first = 0
    for length, run in groupby(lengths):
        count = len(list(run))
        found.append(Stretch(first, count, length))
        first += count * length
    return tuple(found)


Graphs: TypeAlias = "tuple[Graph, ...]"
"""Those of all places, in order; empty where the gradient needs none."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, heads: Heads, where: Sequence[Place], angles: Angles
) -> tuple[Tensor, Graphs]:
    """Attention of every sequence on itself.

    Args:
        q: (rows, queries * width)
        k: (rows, keys * width)
        v: as k.
        heads: their shape.
        where: positions of the sequences.
        angles: of at least the longest; of every row where it is `Ragged`.

    Returns:
        (rows, queries * width), and what `attend_gradient` needs instead of q, k and v if it is not empty.
    """
    if native := _native("attend", heads, q, k, v):
        out = torch.empty_like(q)
        native(*(x.data_ptr() for x in (q, k, v, out, angles.cosine, angles.sine)), *_shape(heads, where))
        return out, ()

    graphs = _graphs(q, k, v, heads=heads, where=where, angles=angles)
    outs = [graph.rows for graph in graphs]
    return outs[0] if len(outs) == 1 else torch.cat(outs), graphs


def attend_gradient(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor] | Graphs,
    *,
    heads: Heads,
    where: Sequence[Place],
    angles: Angles,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attend` in q, k and v for an output gradient.

    Args:
        grad: (rows, queries * width)
        inputs: the graphs that `attend` returned if there are any, else its q, k and v.
        heads: as for `attend`.
        where: as for `attend`.
        angles: as for `attend`.
    """
    graphs = tuple(x for x in inputs if not isinstance(x, Tensor))
    if not graphs:
        q, k, v = (x for x in inputs if isinstance(x, Tensor))
        native = _native("attend_gradient", heads, q, k, v, grad)
        if native is not None:
            grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
            native(*(x.data_ptr() for x in (q, k, v, grad, *grads, angles.cosine, angles.sine)), *_shape(heads, where))
            return grads

        graphs = _graphs(q, k, v, heads=heads, where=where, angles=angles)
    parts = [graph.gradients(grad, place, angles) for graph, place in zip(graphs, where, strict=True)]
    if len(parts) == 1:
        return parts[0]
    in_q, in_k, in_v = (torch.cat(column) for column in zip(*parts, strict=True))
    return in_q, in_k, in_v


def _graphs(q: Tensor, k: Tensor, v: Tensor, *, heads: Heads, where: Sequence[Place], angles: Angles) -> Graphs:
    from plait.training.fused.library_attention import Graph

    return tuple(Graph.of(q, k, v, place, heads, angles) for place in where)


def _native(name: str, heads: Heads, *tensors: Tensor) -> Callable[..., None] | None:
    return None if heads.width % _LANES else kernel(name, _ARGUMENTS[name], *tensors)


def _shape(heads: Heads, where: Sequence[Place]) -> tuple[object, ...]:
    """The compiled kernels' description of sequences and heads."""
    flat = [
        number
        for stretch in where
        if isinstance(stretch, Stretch)  # nothing else on a CPU
        for at in range(stretch.count)
        for number in (stretch.first + at * stretch.length, stretch.length)
    ]
    sequences = (ctypes.c_int64 * len(flat))(*flat)
    return sequences, len(flat) // 2, heads.queries, heads.keys, heads.width, heads.scale


_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_OF_SHAPE = (_P, _I, _I, _I, _I, _F)
_ARGUMENTS = {"attend": (*[_P] * 6, *_OF_SHAPE), "attend_gradient": (*[_P] * 9, *_OF_SHAPE)}
