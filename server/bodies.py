"""The bodies of tasks, by SHA-256: each held once in memory while any task uses it.

Knows nothing of who downloads them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Held:
    body: bytes
    uses: int


class Bodies:
    """Counts the uses of each body; not thread-safe, its owner locks."""

    def __init__(self) -> None:
        self._by_digest: dict[bytes, _Held] = {}
        # While a body is held, no other object can have its id.
        self._digest_by_id: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    @property
    def held_bytes(self) -> int:
        """Size of all bodies together."""
        return sum(len(held.body) for held in self._by_digest.values())

    def known(self, body: bytes) -> bytes | None:
        """The SHA-256 of this very object, if it is held."""
        return self._digest_by_id.get(id(body))

    def hold(self, body: bytes, digest: bytes) -> None:
        """Count one more use of a body, whose SHA-256 is `digest`; an equal one that is already held replaces it."""
        held = self._by_digest.get(digest)
        if held is None:
            self._by_digest[digest] = _Held(body, 1)
            self._digest_by_id[id(body)] = digest
        else:
            held.uses += 1

    def get(self, digest: bytes) -> bytes | None:
        """The body with this SHA-256, the original object; None if no task uses it."""
        held = self._by_digest.get(digest)
        return None if held is None else held.body

    def release(self, digest: bytes) -> None:
        """Count one use less; a body without uses is dropped."""
        held = self._by_digest[digest]
        held.uses -= 1
        if not held.uses:
            del self._by_digest[digest], self._digest_by_id[id(held.body)]
