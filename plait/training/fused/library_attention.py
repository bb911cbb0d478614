"""Causal attention as torch itself computes it, where nothing is compiled: on GPUs, and on a CPU without a compiler."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch.backends import cuda
from torch.nn import functional

from plait.training.fused.attention import Angles, Heads, Place, Ragged, Tensor

_PLAIN_LONGEST = 512  # up to this length the blocks of torch's own kernel cost more than they save on a CPU


def takes_ragged(heads: Heads, like: Tensor) -> bool:
    """Whether one call computes sequences of several lengths.

    Args:
        heads: shape of the attention.
        like: a tensor of its device and type.
    """
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
class Graph:
    """Autograd's graph of torch's own attention in one place.

    Attributes:
        leaves: queries, keys and values, (count, heads, length, width) each.
        out: their attention, as queries.
    """

    leaves: tuple[Tensor, Tensor, Tensor]
    out: Tensor

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, place: Place, heads: Heads, angles: Angles) -> Graph:
        """Compute the attention of the sequences there on themselves; its parameters are those of `attend`."""
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
        """Gradients of queries, keys and values for one of the result; all as in `attend`."""
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
