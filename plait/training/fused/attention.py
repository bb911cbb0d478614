"""Causal attention over sequences that lie one after another without padding, forward and backward.

Short sequences on a CPU take plain matrix products with one pass of softmax between them: there the blocks of a
flash kernel cost more than they save (its backward was ten times slower at 128 tokens). All else takes torch's own
scaled-dot-product attention. Query heads share key heads in groups (arXiv 2305.13245). Knows nothing of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch.nn import functional

from plait.training.fused.kernels import causal_softmax_, causal_softmax_gradient_, from_heads, to_heads

Tensor = torch.Tensor

_PLAIN_LONGEST = 512
_KEPT_LONGEST = 256  # up to here what softmax gave is kept for the backward pass, beyond it is computed anew


@dataclass(frozen=True)
class Heads:
    """Shape of an attention.

    Attributes:
        queries: query heads.
        keys: key and value heads.
        width: of a head.
    """

    queries: int
    keys: int
    width: int

    @property
    def scale(self) -> float:
        """What scores are multiplied with."""
        return self.width**-0.5


@dataclass(frozen=True)
class Stretch:
    """Neighbouring sequences of equal length.

    Attributes:
        first: first row.
        count: sequences.
        length: of each.
    """

    first: int
    count: int
    length: int

    @property
    def rows(self) -> slice:
        """Their rows."""
        return slice(self.first, self.first + self.count * self.length)


def stretches(lengths: Sequence[int]) -> tuple[Stretch, ...]:
    """Sequences of these lengths, one after another, as few stretches as can be."""
    found: list[Stretch] = []
    first = 0
    for length, run in groupby(lengths):
        count = len(list(run))
        found.append(Stretch(first, count, length))
        first += count * length
    return tuple(found)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, heads: Heads, where: Sequence[Stretch], angles: tuple[Tensor, Tensor]
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Attention of every sequence on itself.

    Args:
        q: (rows, queries * width)
        k: (rows, keys * width)
        v: as k.
        heads: their shape.
        where: the sequences.
        angles: float32 cosine and sine by position, at least (longest, width) each.

    Returns:
        (rows, queries * width), and what `attend_gradient` wants back.
    """
    outs: list[Tensor] = []
    kept: list[tuple[Tensor, ...]] = []
    for stretch in where:
        q_heads, k_heads, v_heads = (
            to_heads(_sequences(x, stretch), turn, heads=count)
            for x, count, turn in ((q, heads.queries, angles), (k, heads.keys, angles), (v, heads.keys, None))
        )
        if _is_plain(q, stretch):
            chances = _chances(q_heads, k_heads, heads, stretch)
            out = torch.bmm(chances, v_heads.flatten(0, 1)).view_as(q_heads)
            keep = (chances,) if stretch.length <= _KEPT_LONGEST else ()
        else:
            out, keep = _library_attention(q_heads, k_heads, v_heads, heads), ()
        outs.append(from_heads(out.contiguous(), None).flatten(0, 1))
        kept.append((q_heads, k_heads, v_heads, *keep))
    return (outs[0] if len(outs) == 1 else torch.cat(outs)), kept


def attend_gradient(
    grad: Tensor,
    kept: Sequence[tuple[Tensor, ...]],
    *,
    heads: Heads,
    where: Sequence[Stretch],
    angles: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attend` in q, k and v."""
    parts: list[tuple[Tensor, ...]] = []
    for stretch, (q_heads, k_heads, v_heads, *rest) in zip(where, kept, strict=True):
        grad_heads = to_heads(_sequences(grad, stretch), None, heads=heads.queries)
        if _is_plain(grad, stretch):
            chances = rest[0] if rest else _chances(q_heads, k_heads, heads, stretch)
            grads = _plain_gradient(grad_heads, q_heads, k_heads, v_heads, chances, heads, stretch)
        else:
            leaves = [x.detach().requires_grad_() for x in (q_heads, k_heads, v_heads)]
            with torch.enable_grad():
                out = _library_attention(leaves[0], leaves[1], leaves[2], heads)
            grads = torch.autograd.grad(out, leaves, grad_heads)
        turns = (angles, angles, None)
        parts.append(tuple(from_heads(g.contiguous(), t).flatten(0, 1) for g, t in zip(grads, turns, strict=True)))
    if len(parts) == 1:
        return parts[0][0], parts[0][1], parts[0][2]
    q, k, v = (torch.cat(column) for column in zip(*parts, strict=True))
    return q, k, v


def _plain_gradient(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, chances: Tensor, heads: Heads, stretch: Stretch
) -> tuple[Tensor, Tensor, Tensor]:
    grad_out, queries = _grouped(grad, heads, stretch), _grouped(q, heads, stretch)
    keys, values = k.flatten(0, 1), v.flatten(0, 1)
    grad_values = torch.bmm(chances.transpose(1, 2), grad_out)
    grad_scores = torch.bmm(grad_out, values.transpose(1, 2))
    causal_softmax_gradient_(chances, grad_scores, length=stretch.length, scale=heads.scale)
    grad_queries = torch.bmm(grad_scores, keys)
    grad_keys = torch.bmm(grad_scores.transpose(1, 2), queries)
    return grad_queries.view_as(q), grad_keys.view_as(k), grad_values.view_as(v)


def _chances(q: Tensor, k: Tensor, heads: Heads, stretch: Stretch) -> Tensor:
    scores = torch.bmm(_grouped(q, heads, stretch), k.flatten(0, 1).transpose(1, 2))
    return causal_softmax_(scores, length=stretch.length, scale=heads.scale)


def _grouped(x: Tensor, heads: Heads, stretch: Stretch) -> Tensor:
    """Query heads that share a key head as one long list of queries: (count * keys, group * length, width)."""
    return x.view(stretch.count * heads.keys, heads.queries // heads.keys * stretch.length, heads.width)


def _library_attention(q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
    group = heads.queries // heads.keys
    if group > 1:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=heads.scale)


def _sequences(x: Tensor, stretch: Stretch) -> Tensor:
    return x[stretch.rows].view(stretch.count, stretch.length, -1)


def _is_plain(x: Tensor, stretch: Stretch) -> bool:
    return x.device.type == "cpu" and stretch.length <= _PLAIN_LONGEST
