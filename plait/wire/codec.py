"""The interface of codecs, which pack the numbers of a delta into bytes, and the numbers that were packed lately.

To add one: an enum value in envelope.proto (never renumbered), a class in `codecs/`, a line in its table, a section in
proto/README.md, a golden vector.
"""

import threading
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32


@dataclass(frozen=True)
class EncodedPayload:
    """An encoded delta, what the codec needs to unpack it, and (layout.size,) what it unpacks to, if that is known."""

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


MOST_BYTES = 1 << 27
"""How much of them a process of a simulation or a server keeps."""


class Decoded:
    """The newest numbers, by the digests of payload and layout; none outside of `kept`."""

    def __init__(self) -> None:
        self._most_bytes = self._bytes = 0
        self._known: OrderedDict[bytes, Float32] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def kept(self, most_bytes: int = MOST_BYTES) -> Generator[None]:
        """Keep up to so many bytes of them."""
        self._most_bytes = most_bytes
        try:
            yield
        finally:
            self._most_bytes = 0
            with self._lock:
                self._known.clear()
                self._bytes = 0

    def add(self, digest: bytes, flat: Float32) -> None:
        """Keep the read-only numbers behind a digest, in place of the longest unused ones."""
        if flat.nbytes > self._most_bytes:
            return
        with self._lock:
            if digest in self._known:
                self._bytes -= self._known.pop(digest).nbytes
            self._known[digest] = flat
            self._bytes += flat.nbytes
            while self._bytes > self._most_bytes:
                self._bytes -= self._known.popitem(last=False)[1].nbytes

    def find(self, digest: bytes) -> Float32 | None:
        """The numbers behind a digest, if they are kept."""
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
            return self._known.get(digest)


DECODED = Decoded()
"""Those of this process."""
