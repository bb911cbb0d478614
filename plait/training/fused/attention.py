"""Causal attention over sequences that lie one after another without padding, forward and backward.

On a CPU it is compiled (`attention.cpp`): one pass from the projections to the mixed values, and one back, holding the
scores of a few queries at a time. Elsewhere, and if nothing could be compiled, torch's own scaled-dot-product
attention is used. Query heads share key heads in groups (arXiv 2305.13245). Knows nothing of layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch.nn import functional

from plait.training.fused.native import kernel

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


def stretches(lengths: Sequence[int]) -> tuple[Stretch, ...]:
    """Sequences of these lengths, one after another, as the fewest possible stretches."""
    found: list[Stretch] = []
    first = 0
    for length, run in groupby(lengths):
        count = len(list(run))
        found.append(Stretch(first, count, length))
        first += count * length
    return tuple(found)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, heads: Heads, where: Sequence[Stretch], angles: tuple[Tensor, Tensor]
) -> Tensor:
    """Attention of every sequence on itself.

    Args:
        q: (rows, queries * width)
        k: (rows, keys * width)
        v: as k.
        heads: their shape.
        where: positions of the sequences.
        angles: float32 cosine and sine by position (RoPE, arXiv 2104.09864), at least (longest, width) each.

    Returns:
        (rows, queries * width)
    """
    if native := _native("attend", heads, q, k, v):
        out = torch.empty_like(q)
        native(*(x.data_ptr() for x in (q, k, v, out, *angles)), *_shape(heads, where))
        return out
    outs: list[Tensor] = []
    for stretch in where:
        q_heads, k_heads, v_heads = _by_head(q, k, v, stretch, heads, angles)
        out = _library_attention(q_heads, k_heads, v_heads, heads)
        outs.append(_from_heads(out, None))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def attend_gradient(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    heads: Heads,
    where: Sequence[Stretch],
    angles: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attend` in q, k and v for an output gradient."""
    if native := _native("attend_gradient", heads, q, k, v, grad):
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        native(*(x.data_ptr() for x in (q, k, v, grad, *grads, *angles)), *_shape(heads, where))
        return grads
    parts: list[tuple[Tensor, ...]] = []
    for stretch in where:
        grad_heads = _to_heads(_sequences(grad, stretch), None, heads=heads.queries)
        leaves = [x.detach().requires_grad_() for x in _by_head(q, k, v, stretch, heads, angles)]
        with torch.enable_grad():
            out = _library_attention(leaves[0], leaves[1], leaves[2], heads)
        found = torch.autograd.grad(out, leaves, grad_heads)
        turns = (angles, angles, None)
        parts.append(tuple(_from_heads(g, t) for g, t in zip(found, turns, strict=True)))
    if len(parts) == 1:
        return parts[0][0], parts[0][1], parts[0][2]
    in_q, in_k, in_v = (torch.cat(column) for column in zip(*parts, strict=True))
    return in_q, in_k, in_v


def _by_head(
    q: Tensor, k: Tensor, v: Tensor, stretch: Stretch, heads: Heads, angles: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """(count, heads, length, width) each, queries and keys rotated."""
    return (
        _to_heads(_sequences(q, stretch), angles, heads=heads.queries),
        _to_heads(_sequences(k, stretch), angles, heads=heads.keys),
        _to_heads(_sequences(v, stretch), None, heads=heads.keys),
    )


def _library_attention(q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
    group = heads.queries // heads.keys
    if group > 1:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    length = q.shape[2]
    if q.device.type == "cpu" and length <= _PLAIN_LONGEST:
        later = torch.ones(length, length, dtype=torch.bool).triu_(1)
        return (heads.scale * q @ k.transpose(2, 3)).masked_fill(later, -torch.inf).softmax(dim=-1) @ v
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=heads.scale)


def _to_heads(x: Tensor, angles: tuple[Tensor, Tensor] | None, *, heads: int) -> Tensor:
    """(count, length, heads * width) as (count, heads, length, width), rotated by position unless angles are None."""
    count, length, flat = x.shape
    split = x.view(count, length, heads, flat // heads).transpose(1, 2)
    if angles is None:
        return split.contiguous()
    cosine, sine = (part[:length] for part in angles)
    first, second = split.float().chunk(2, dim=-1)
    return (torch.cat((first, second), -1) * cosine + torch.cat((-second, first), -1) * sine).to(x.dtype)


def _from_heads(x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """The transpose of `_to_heads`, as rows: (count * length, heads * width)."""
    if angles is not None:
        cosine, sine = (part[: x.shape[2]] for part in angles)
        first, second = (x.float() * sine).chunk(2, dim=-1)
        x = (x.float() * cosine + torch.cat((second, -first), -1)).to(x.dtype)
    return x.transpose(1, 2).flatten(2).flatten(0, 1)


def _sequences(x: Tensor, stretch: Stretch) -> Tensor:
    return x[stretch.rows].view(stretch.count, stretch.length, -1)


def _native(name: str, heads: Heads, *tensors: Tensor) -> Callable[..., None] | None:
    return None if heads.width % _LANES else kernel(name, _ARGUMENTS[name], *tensors)


def _shape(heads: Heads, where: Sequence[Stretch]) -> tuple[object, ...]:
    """The compiled kernels' description of sequences and heads."""
    flat = [
        number
        for stretch in where
        for at in range(stretch.count)
        for number in (stretch.first + at * stretch.length, stretch.length)
    ]
    sequences = (ctypes.c_int64 * len(flat))(*flat)
    return sequences, len(flat) // 2, heads.queries, heads.keys, heads.width, heads.scale


_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_OF_SHAPE = (_P, _I, _I, _I, _I, _F)
_ARGUMENTS = {"attend": (*[_P] * 6, *_OF_SHAPE), "attend_gradient": (*[_P] * 9, *_OF_SHAPE)}
