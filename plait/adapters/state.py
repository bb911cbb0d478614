"""The values of an adapter: named float32 tensors in one flat read-only buffer under a layout, and their arithmetic."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from plait.errors import PeerError
from plait.system.text import read_json


@dataclass(frozen=True)
class TensorSlot:
    """One tensor of an adapter: PEFT's name for it, and where it begins in the flat buffer."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def part(self) -> slice:
        """Where it is in the flat buffer."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """All tensors of an adapter, in name order, packed without gaps.

    Build it with `Layout.of`. Equal names and shapes give an equal layout and digest.
    """

    slots: tuple[TensorSlot, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Iterable[int]]) -> Self:
        """Lay out named shapes in name order."""
        slots: list[TensorSlot] = []
        offset = 0
        for name in sorted(shapes):
            slot = TensorSlot(name, tuple(int(n) for n in shapes[name]), offset)
            slots.append(slot)
            offset += slot.size
        return cls(tuple(slots))

    @classmethod
    def of_text(cls, text: str) -> Self:
        """The inverse of `text`."""
        try:
            shapes = {str(name): tuple(map(int, shape)) for name, shape in cast("list[Any]", read_json(text))}
        except (ValueError, TypeError):
            shapes = {}
        found = cls.of(shapes)
        if found.text != text or any(size < 0 for shape in shapes.values() for size in shape):
            raise PeerError(f"layout has {len(text)} characters and is not a list of names and shapes in order")
        return found

    @cached_property
    def size(self) -> int:
        """Number of elements of the whole adapter."""
        return sum(slot.size for slot in self.slots)

    @cached_property
    def by_name(self) -> Mapping[str, TensorSlot]:
        """The slots under their names."""
        return {slot.name: slot for slot in self.slots}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) over names and shapes."""
        return hashlib.sha256(self.text.encode()).digest()

    @cached_property
    def text(self) -> str:
        """Names and shapes as JSON, ASCII only, without spaces."""
        return json.dumps([[slot.name, list(slot.shape)] for slot in self.slots], separators=(",", ":"))


Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AdapterState:
    """Named float32 tensors of one adapter (or of the difference of two): `flat` is (layout.size,), read-only."""

    layout: Layout
    flat: Float32

    def __post_init__(self) -> None:
        if self.flat.dtype != np.float32 or self.flat.shape != (self.layout.size,):
            raise ValueError(
                f"flat buffer is {self.flat.dtype}{self.flat.shape}, expected float32{(self.layout.size,)}"
            )
        if self.flat.flags.writeable:
            view = self.flat.view()
            view.flags.writeable = False
            object.__setattr__(self, "flat", view)

    @classmethod
    def zeros(cls, layout: Layout) -> Self:
        """The adapter whose every element is 0."""
        return cls(layout, np.zeros(layout.size, np.float32))

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """Pack tensors with exactly the layout's names and shapes.

        Raises:
            PeerError: a tensor is missing, unexpected, of another shape, not floating point, or not finite.
        """
        missing = layout.by_name.keys() - tensors.keys()
        if missing:
            raise PeerError(f"tensor '{min(missing)}' is missing, expected {len(layout.slots)} tensors")
        unexpected = tensors.keys() - layout.by_name.keys()
        if unexpected:
            raise PeerError(f"tensor {min(unexpected)!r} is not part of this adapter")
        flat = np.empty(layout.size, np.float32)
        for slot in layout.slots:
            tensor = tensors[slot.name]
            if tensor.shape != slot.shape:
                raise PeerError(f"shape of '{slot.name}' is {tensor.shape}, expected {slot.shape}")
            if not np.issubdtype(tensor.dtype, np.floating):
                raise PeerError(f"dtype of '{slot.name}' is {tensor.dtype}, expected float32")
            # A float64 beyond float32 becomes infinite here and is refused below.
            with np.errstate(over="ignore"):
                flat[slot.part] = tensor.reshape(-1)
        state = cls(layout, flat)
        check_finite(state)
        return state

    def __getitem__(self, name: str) -> Float32:
        """The tensor called `name`, a read-only view in its own shape."""
        slot = self.layout.by_name[name]
        return self.flat[slot.part].reshape(slot.shape)

    def items(self) -> Iterator[tuple[str, Float32]]:
        """Names and tensors (views), in layout order."""
        for slot in self.layout.slots:
            yield slot.name, self[slot.name]

    def digest(self) -> bytes:
        """SHA-256 (32 bytes) over the layout's digest and the little-endian float32 values."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        hasher = hashlib.sha256(self.layout.digest)
        hasher.update(np.ascontiguousarray(self.flat, "<f4").data)
        return hasher.digest()

    @cached_property
    def is_small(self) -> bool:
        """Whether surely all are below 2^64, quickly: a product is not finite if an element's square is not."""
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(np.dot(self.flat, self.flat)))

    @cached_property
    def _norm(self) -> float:
        wide = self.flat.astype(np.float64)
        return float(np.sqrt(wide @ wide))


def check_finite(state: AdapterState) -> None:
    """Raise PeerError naming the first tensor that holds a NaN or an infinity."""
    if state.is_small:
        return
    for name, tensor in state.items():
        if not np.isfinite(tensor).all():
            raise PeerError(f"tensor '{name}' holds NaN or infinity")


def add(left: AdapterState, right: AdapterState) -> AdapterState:
    """The sum, element by element in float32."""
    _check_same_layout(left, right)
    return AdapterState(left.layout, left.flat + right.flat)


def subtract(left: AdapterState, right: AdapterState) -> AdapterState:
    """`left` minus `right`, element by element in float32."""
    _check_same_layout(left, right)
    return AdapterState(left.layout, left.flat - right.flat)


def norm(state: AdapterState) -> float:
    """Euclidean norm over all elements, accumulated in float64."""
    return state._norm  # pyright: ignore[reportPrivateUsage]


def _check_same_layout(left: AdapterState, right: AdapterState) -> None:
    if left.layout is not right.layout and left.layout.digest != right.layout.digest:
        raise ValueError("the two adapters have different layouts")
