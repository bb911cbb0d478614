"""The layout of an adapter: its tensors, and the place of each in one flat float32 buffer.

Knows no values and no methods: LoRA factors, prompt embeddings and classification heads are all named shapes here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from plait.errors import PeerError


@dataclass(frozen=True)
class TensorSlot:
    """One tensor of an adapter.

    Attributes:
        name: PEFT's name for it, as in ``adapter_model.safetensors``.
        offset: index of its first element in the flat buffer.
    """

    name: str
    shape: tuple[int, ...]
    offset: int

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """All tensors of an adapter, in name order, packed without gaps.

    Build it with `Layout.of`. Equal names and shapes give an equal layout and digest.
    """

    slots: tuple[TensorSlot, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Iterable[int]]) -> Layout:
        """Lay out named shapes in name order."""
        slots: list[TensorSlot] = []
        offset = 0
        for name in sorted(shapes):
            slot = TensorSlot(name, tuple(int(n) for n in shapes[name]), offset)
            slots.append(slot)
            offset += slot.size
        return cls(tuple(slots))

    @classmethod
    def of_text(cls, text: str) -> Layout:
        """The inverse of `text`.

        Raises:
            PeerError: it is not a layout.
        """
        try:
            shapes = {str(name): tuple(map(int, shape)) for name, shape in json.loads(text)}
        except (ValueError, TypeError):
            shapes = {}
        found = cls.of(shapes)
        if found.text != text or any(size < 0 for shape in shapes.values() for size in shape):
            raise PeerError(f"layout has {len(text)} characters of another form, expected names and shapes in order")
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
