"""The interface of codecs: packing the numbers of a delta into bytes, and back.

Knows no envelope. To add one: an enum value in envelope.proto (never renumbered), a file in `codecs/`, a line in its
table, a section in proto/README.md, a golden vector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32


@dataclass(frozen=True)
class EncodedPayload:
    """An encoded delta.

    Attributes:
        parameters: what the codec needs to unpack the payload, besides the layout.
        decoded: (layout.size,) what it unpacks to, bit for bit, where the encoder knows.
    """

    parameters: bytes
    payload: bytes
    decoded: Float32 | None = field(default=None, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        """The total size."""
        return len(self.parameters) + len(self.payload)


class Codec(Protocol):
    """Packs deltas; has no state, so one codec serves any number of envelopes."""

    @property
    def name(self) -> str:
        """As in the ledger."""
        ...

    @property
    def number(self) -> int:
        """Its value in plait.v1.Codec."""
        ...

    @property
    def bits(self) -> float:
        """Approximate bits per parameter."""
        ...

    @property
    def distortion(self) -> float:
        """Expected relative error of a typical delta, ||x - x̂||² / ||x||²; 0 if negligible."""
        ...

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """Pack a delta of finite values; on one machine the same values give the same bytes."""
        ...

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """Unpack (layout.size,) finite float32 values; the same bytes give the same values on every machine.

        The result may be a read-only view of `payload`.

        Raises:
            PeerError: `encode` cannot have written these bytes.
        """
        ...

    def max_payload_bytes(self, layout: Layout) -> int:
        """The maximum size of parameters and payload together; a decoder never sees more."""
        ...
