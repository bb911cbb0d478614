"""Which tensors of an adapter belong together: the pairs A, B of LoRA, their rank and the scale of their product.

LoRA (arXiv 2106.09685): W' = W + scale * B A, with scale alpha / rank, or alpha / sqrt(rank) (arXiv 2312.03732).
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterSpec, AdapterState, Float32, Layout, TensorSlot
from plait.errors import ConfigError

Scalar = TypeVar("Scalar", bound=np.floating)

# PEFT's names of the two factors, for linear and convolution layers and for embeddings.
_NUMBER = re.compile(r"\d+")  # of a layer
_FACTOR_NAME = re.compile(r"^(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.weight)?$")


class Side(StrEnum):
    """One factor of a pair: A reads the input, B writes the output."""

    A = "A"
    B = "B"


BOTH_SIDES = frozenset(Side)


@dataclass(frozen=True)
class Pair:
    """The two factors on one module.

    Attributes:
        module: name of the module, as in PEFT's tensor names without ``.lora_A.weight``.
        a: where A is; its first dimension is the rank, the others together are d_in.
        b: where B is; its first dimension is d_out, its second the rank.
    """

    module: str
    a: TensorSlot
    b: TensorSlot
    rank: int
    scale: float

    @property
    def d_in(self) -> int:
        """Columns of A."""
        return self.a.size // self.rank

    @property
    def d_out(self) -> int:
        """Rows of B."""
        return self.b.size // self.rank

    @property
    def size(self) -> int:
        """Number of elements of both factors."""
        return self.a.size + self.b.size

    def slot(self, side: Side) -> TensorSlot:
        """Where the factor of `side` is."""
        return self.a if side is Side.A else self.b

    def a_of(self, flat: NDArray[Scalar]) -> NDArray[Scalar]:
        """A, (rank, d_in), a view of a flat buffer in the pair's layout."""
        return flat[self.a.part].reshape(self.rank, self.d_in)

    def b_of(self, flat: NDArray[Scalar]) -> NDArray[Scalar]:
        """B, (d_out, rank), a view of a flat buffer in the pair's layout."""
        return flat[self.b.part].reshape(self.d_out, self.rank)


@dataclass(frozen=True)
class Alike:
    """Pairs of one shape at equal distances, n of them, to be computed with at once.

    Attributes:
        scales: (n,).
        apart: elements from one pair to the next.
    """

    first: Pair
    scales: NDArray[np.float64]
    apart: int

    def a_of(self, flat: NDArray[Scalar]) -> NDArray[Scalar]:
        """All A, (n, rank, d_in), a view."""
        return self._all(self.first.a_of(flat))

    def b_of(self, flat: NDArray[Scalar]) -> NDArray[Scalar]:
        """All B, (n, d_out, rank), a view."""
        return self._all(self.first.b_of(flat))

    def _all(self, first: NDArray[Scalar]) -> NDArray[Scalar]:
        strides = (self.apart * first.itemsize, *first.strides)
        return np.lib.stride_tricks.as_strided(first, (len(self.scales), *first.shape), strides)


@dataclass(frozen=True)
class Geometry:
    """A layout with its pairs.

    Attributes:
        pairs: in the order of their module names.
        others: slots that are not factors (a bias, a classifier head, a square matrix of LoRA-XS): averaged plainly by
            every rule.
    """

    layout: Layout
    pairs: tuple[Pair, ...]
    others: tuple[TensorSlot, ...]

    @cached_property
    def by_module(self) -> Mapping[str, Pair]:
        """The pairs under their module names."""
        return {pair.module: pair for pair in self.pairs}

    @cached_property
    def alike(self) -> tuple[Alike, ...]:
        """All pairs; those of one shape together, as far as they are at equal distances."""
        groups: dict[object, list[Pair]] = {}
        for pair in self.pairs:
            groups.setdefault((pair.a.shape, pair.b.shape, _NUMBER.sub("", pair.module)), []).append(pair)
        return tuple(alike for pairs in groups.values() for alike in _alike(pairs))

    @cached_property
    def others_size(self) -> int:
        """Number of elements outside the pairs."""
        return sum(slot.size for slot in self.others)

    def side_size(self, side: Side) -> int:
        """Number of elements of one side over all pairs."""
        return sum(pair.slot(side).size for pair in self.pairs)

    def others_of(self, flat: NDArray[Scalar]) -> NDArray[Scalar]:
        """The elements outside the pairs, (others_size,), copied from a flat buffer."""
        if not self.others:
            return flat[:0]
        return np.concatenate([flat[slot.part] for slot in self.others])

    def trained(self, received: NDArray[Scalar], delta: NDArray[Scalar]) -> NDArray[Scalar]:
        """Their sum where the pairs are, which may be a small part of the layout; anything elsewhere."""
        total = np.empty_like(delta)
        for pair in self.pairs:
            for factor in (pair.a_of, pair.b_of):
                np.add(factor(received), factor(delta), out=factor(total))
        return total

    def put_others(self, flat: NDArray[Scalar], values: NDArray[np.floating]) -> None:
        """Write what `others_of` gave back into a flat buffer."""
        put(flat, [slot.part for slot in self.others], values)


def _alike(pairs: Sequence[Pair]) -> Iterator[Alike]:
    apart = {after.slot(side).offset - before.slot(side).offset for before, after in pairwise(pairs) for side in Side}
    for together in [pairs] if len(apart) == 1 else [[pair] for pair in pairs]:
        yield Alike(together[0], np.array([pair.scale for pair in together]), sum(apart) if len(together) > 1 else 0)


def geometry_of(spec: AdapterSpec) -> Geometry:
    """Find the pairs of an adapter.

    Raises:
        ConfigError: a factor has no partner, the two have different ranks, or the rank is not the one that PEFT's
            configuration declares.
    """
    found: dict[str, dict[Side, TensorSlot]] = {}
    others: list[TensorSlot] = []
    for slot in spec.layout.slots:
        match = _FACTOR_NAME.match(slot.name)
        if match and len(slot.shape) >= 2:
            found.setdefault(match["module"], {})[Side(match["side"])] = slot
        else:
            others.append(slot)
    pairs = tuple(_pair(spec, module, found[module]) for module in sorted(found))
    return Geometry(spec.layout, pairs, tuple(others))


def _pair(spec: AdapterSpec, module: str, slots: Mapping[Side, TensorSlot]) -> Pair:
    for side in Side:
        if side not in slots:
            raise ConfigError(f"factor {side} of '{module}' is missing: a pair needs A and B")
    a, b = slots[Side.A], slots[Side.B]
    rank = a.shape[0]
    if b.shape[1] != rank:
        raise ConfigError(f"rank of B on '{module}' is {b.shape[1]}, expected {rank} as of A")
    if not a.size or not b.size:
        raise ConfigError(f"a factor of '{module}' is empty")
    if spec.rank is not None and spec.rank != rank:
        raise ConfigError(f"rank of '{module}' is {rank}, expected {spec.rank}")
    alpha = spec.alpha
    # A method that declares no alpha has no scale.
    scale = 1.0 if alpha is None else alpha / (math.sqrt(rank) if spec.peft_config.get("use_rslora") else rank)
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"scale of '{module}' is {scale:g}, expected a positive number")
    return Pair(module, a, b, rank, scale)


def slices_of(geometry: Geometry, sides: Collection[Side]) -> tuple[slice, ...]:
    """The parts of a flat buffer that hold these sides of all pairs, and all other tensors, in order."""
    slots = [*(pair.slot(side) for pair in geometry.pairs for side in sides), *geometry.others]
    return tuple(slot.part for slot in sorted(slots, key=lambda slot: slot.offset))


def size_of(parts: Sequence[slice]) -> int:
    """Numbers of these parts of a flat buffer together."""
    return sum(part.stop - part.start for part in parts)


def gathered(delta: AdapterState, parts: Sequence[slice]) -> Float32:
    """The numbers of these parts, (size_of(parts),)."""
    return np.concatenate([delta.flat[part] for part in parts])


def put(flat: NDArray[Scalar], parts: Sequence[slice], values: NDArray[np.floating]) -> None:
    """Write the numbers of these parts into a flat buffer."""
    at = 0
    for part in parts:
        flat[part] = values[at : at + part.stop - part.start]
        at += part.stop - part.start


def scattered(values: Float32, parts: Sequence[slice], layout: Layout) -> AdapterState:
    """The inverse of `gathered`: zeros everywhere else."""
    flat: Float32 = np.zeros(layout.size, np.float32)
    put(flat, parts, values)
    return AdapterState(layout, flat)


def without(delta: AdapterState, geometry: Geometry, sides: Collection[Side]) -> AdapterState:
    """A delta with these sides of all pairs set to zero."""
    flat = delta.flat.copy()
    for pair in geometry.pairs:
        for side in sides:
            flat[pair.slot(side).part] = 0
    return AdapterState(delta.layout, flat)
