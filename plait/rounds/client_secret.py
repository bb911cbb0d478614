"""A client's secret of one run, which decides its batches and its rounding in masked rounds.

Were they to follow from what the server knows, a server that begins the same settings again without one client would
get the same numbers from all others, and the difference of both sums would be that client's update. The secret is the
client's own and of one run, so the others' numbers differ. Knows no mask.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field, replace
from typing import Self

from plait.rounds.memory import Memory
from plait.trust.derived import KEY_BYTES, derived
from plait.wire.settings import Settings

_KEY = "secret"


@dataclass(frozen=True)
class ClientSecret:
    """The secret of one client in one run.

    Attributes:
        value: 32 bytes.
    """

    value: bytes = field(repr=False)

    @classmethod
    def of(cls, memory: Memory) -> Self:
        """The one in the client's memory of the run; drawn and stored there if there is none."""
        known = cls.known(memory)
        if known is None:
            known = cls(secrets.token_bytes(KEY_BYTES))
            memory.save(_KEY, known.value)
        return known

    @classmethod
    def known(cls, memory: Memory) -> Self | None:
        """The one in the client's memory of the run, if there is one."""
        value = memory.load(_KEY)
        return None if value is None or len(value) != KEY_BYTES else cls(value)

    @classmethod
    def simulated(cls, seed: int, client: str) -> Self:
        """That of a simulated client, from the run's seed: a simulation has one operator and can be repeated."""
        return cls(hashlib.sha256(f"secret of a simulation {seed} {client}".encode()).digest())

    @property
    def account(self) -> str:
        """The client's own name for the run, in the journal of its data: a server may call two runs the same."""
        return derived(self.value, b"account").hex()[:32]

    def seeded(self, settings: Settings) -> Settings:
        """The settings of a task, with the client's own seed in a masked round."""
        if not settings.under_masks:
            return settings
        key = derived(self.value, b"batches", settings.round.to_bytes(8, "big"))
        return replace(settings, seed=int.from_bytes(key[:8], "big") >> 1)

    def rounding(self, number: int, received: bytes) -> bytes:
        """The key of a round's rounding: the same in every attempt at a round.

        Args:
            received: digest of the adapter that the update starts from.
        """
        return derived(self.value, b"rounding", number.to_bytes(8, "big"), received)
