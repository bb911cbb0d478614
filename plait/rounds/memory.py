"""Values that a client keeps between tasks, by key; the driver decides where.

They may be lost. The server can send some of them again at the cost of some bytes; a client that keeps the others on
disk loses nothing.
"""

from __future__ import annotations

from typing import Protocol

# Values without another copy: encoder residuals, optimizer moments, the adapter of the round before, a
# personal side, the losses of single sequences before round 1, the journal of masked sums, the secret of a run, and
# what was spent on the client's records.
IRREPLACEABLE = frozenset(
    {"residual", "moments", "rate", "slope", "own", "judged", "secagg", "secret", "record-privacy"}
)

# Of these, what may not be kept where it ends with the process: an account that is lost could be spent twice.
MUST_LAST = frozenset({"record-privacy"})

# What stays where a run is over because its server says so: by the secret the journal of the data knows the run again.
OUTLASTS_RUN = MUST_LAST | {"secret"}


class Memory(Protocol):
    """Bytes by key: the newest adapter and its spec, the base's movement, and the `IRREPLACEABLE` values."""

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        ...

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`."""
        ...
