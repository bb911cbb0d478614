"""The numbers of payloads that this process has packed or unpacked lately.

Where clients and server are one process, a broadcast is unpacked once for all of them, and an update not at all: its
sender knows the numbers. A server keeps those of a small cohort from their arrival to their fold. The caller has
computed the payload's digest from its bytes, so nothing else can be found under it. Knows no codec.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager

from plait.adapters.state import Float32

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
