"""Causal attention over sequences that lie one after another without padding, forward and backward.

On a CPU it is compiled (`attention.cpp`), elsewhere torch's own. Query heads share key heads in groups (arXiv
2305.13245).
"""

import ctypes
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Self, TypeAlias, cast

import torch
from torch.backends import cuda
from torch.nn import functional

from plait.training.fused.kernels import kernel

Tensor = torch.Tensor

_LANES = 16  # a compiled head's width is a multiple of it
_PLAIN_LONGEST = 512  # up to this length the blocks of torch's own kernel cost more than they save on a CPU


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
    """Rotation by position (RoPE, arXiv 2104.09864): cosine and sine, (longest, width), their halves equal."""

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
    """Neighbouring sequences of equal length, from the row `first` on."""

    first: int
    count: int
    length: int

    @property
    def rows(self) -> slice:
        """Their rows."""
        return slice(self.first, self.first + self.count * self.length)


@dataclass(frozen=True)
class Ragged:
    """All sequences of a batch: `bounds` (sequences + 1,) int32 are their first rows, and the end."""

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


Graphs: TypeAlias = "tuple[_Graph, ...]"
"""Those of all places, in order; empty where the gradient needs none."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, heads: Heads, where: Sequence[Place], angles: Angles
) -> tuple[Tensor, Graphs]:
    """Attention of every sequence on itself.

    Args:
        q: (rows, queries * width); k and v: (rows, keys * width).
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
    inputs: "tuple[Tensor, Tensor, Tensor] | Graphs",
    *,
    heads: Heads,
    where: Sequence[Place],
    angles: Angles,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attend` in q, k and v; `inputs` are its graphs if it returned any, else its q, k and v."""
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
    return tuple(_Graph.of(q, k, v, place, heads, angles) for place in where)


def _native(name: str, heads: Heads, *tensors: Tensor) -> Callable[..., None] | None:
    return None if heads.width % _LANES else kernel(name, _ARGUMENTS[name], *tensors)


def _shape(heads: Heads, where: Sequence[Place]) -> tuple[object, ...]:
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


def takes_ragged(heads: Heads, like: Tensor) -> bool:
    """Whether one call computes sequences of several lengths, on the device and in the type of `like`."""
    if like.device.type == "cpu" or varlen_attention() is None:
        return False
    # Some GPUs compute wide heads, but not their gradients.
    q, k = (like.new_empty(1, count, 1, heads.width).requires_grad_() for count in (heads.queries, heads.keys))
    return _takes_groups(q, k, k)


@cache
def varlen_attention() -> Callable[..., Tensor] | None:
    """The attention over sequences of several lengths that torch has, if it takes groups of heads."""
    try:
        # Not above: it brings torch's compiler along, which takes a second.
        found = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None
    return found if inspect.signature(found).parameters.keys() >= {"scale", "window_size", "enable_gqa"} else None


@dataclass(frozen=True)
class _Graph:
    """Autograd's graph of torch's own attention in one place; q, k and v are (count, heads, length, width)."""

    leaves: tuple[Tensor, Tensor, Tensor]
    out: Tensor

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, place: Place, heads: Heads, angles: Angles) -> Self:
        q, k, v = (
            x[place.rows].view(place.count, place.length, count, heads.width)
            for x, count in ((q, heads.queries), (k, heads.keys), (v, heads.keys))
        )
        both = angles.turn(torch.cat((q, k), dim=2))
        parts = (*both.split((heads.queries, heads.keys), dim=2), v)
        # Detached: the graph is a part of its own, which `gradients` walks.
        q, k, v = (part.detach().transpose(1, 2).requires_grad_() for part in parts)
        with torch.enable_grad():
            if isinstance(place, Ragged):
                return cls((q, k, v), _ragged_attention(q, k, v, place, heads))
            return cls((q, k, v), _library_attention(q, k, v, heads))

    @property
    def rows(self) -> Tensor:
        """The result, (count * length, queries * width)."""
        return _as_rows(self.out.detach().transpose(1, 2))

    def gradients(self, grad: Tensor, place: Place, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        given = grad[place.rows].view(place.count, place.length, self.out.shape[1], -1).transpose(1, 2)
        q, k, v = (x.transpose(1, 2) for x in torch.autograd.grad(self.out, self.leaves, given))
        back = angles.turn(torch.cat((q, k), dim=2), back=True)
        turned_q, turned_k = back.split((q.shape[2], k.shape[2]), dim=2)
        if grad.device.type == "cpu":
            # Compiled kernels take nothing else; a GPU's take the parts as they lie.
            turned_q, turned_k = turned_q.contiguous(), turned_k.contiguous()
        return _as_rows(turned_q), _as_rows(turned_k), _as_rows(v)


def _library_attention(q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
    group = heads.queries // heads.keys
    length = q.shape[2]
    plain = q.device.type == "cpu" and length <= _PLAIN_LONGEST
    grouped = group > 1 and not plain and _takes_groups(q, k, v)
    if group > 1 and not grouped:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if plain:
        later = torch.ones(length, length, dtype=torch.bool).triu_(1)
        return (heads.scale * q @ k.transpose(2, 3)).masked_fill(later, -torch.inf).softmax(dim=-1) @ v
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=heads.scale, enable_gqa=grouped)


def _ragged_attention(q: Tensor, k: Tensor, v: Tensor, place: Ragged, heads: Heads) -> Tensor:
    """All are (1, heads, rows, width)."""
    attention = cast("Callable[..., Tensor]", varlen_attention())
    bounds, longest = place.bounds, place.longest
    out = attention(
        *(x.squeeze(0).transpose(0, 1) for x in (q, k, v)), bounds, bounds, longest, longest,
        scale=heads.scale, window_size=(-1, 0), enable_gqa=heads.queries > heads.keys,
    )  # fmt: skip
    return out.transpose(0, 1)[None]


def _takes_groups(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether FlashAttention computes it: no other kernel of torch's spares a copy of the keys for every query head."""
    return q.device.type != "cpu" and cuda.can_use_flash_attention(
        cuda.SDPAParams(q, k, v, None, 0.0, True, True)  # no mask, no dropout, causal, in groups
    )


def _as_rows(x: Tensor) -> Tensor:
    """(count, length, heads, width) as (count * length, heads * width)."""
    return x.flatten(2).flatten(0, 1)
