"""What a client keeps between tasks, by key; where it is kept is the driver's affair.

It may be lost. What the server can send again costs some bytes then; of what it cannot, a client that keeps it on disk
loses nothing.
"""

from __future__ import annotations

from typing import Protocol

# What nobody else has: what an encoder still owes, an optimizer's moments, a drift, a personal side, and the losses of
# single sequences before round 1.
IRREPLACEABLE = frozenset({"residual", "moments", "drift", "own", "judged"})


class Memory(Protocol):
    """Bytes under keys: the newest adapter and its spec, how far the base has moved, and what is `IRREPLACEABLE`."""

    def load(self, key: str) -> bytes | None:
        """The bytes kept under `key`."""
        ...

    def save(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`."""
        ...
