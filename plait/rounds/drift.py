"""SCAFFOLD on adapters: each local step is corrected for how the client drifted from the others.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", arXiv 1910.06378, option II, in
the space of updates. With y_i - x = d_i a client's change in a round of K steps, corrected by D_i in all, and g the
change of the global adapter in that round, which the next broadcast shows, the correction becomes

    D_i+ = D_i + g - d_i,        D_i / K added to the adapter after every step.

For SGD of rate eta, with c_i+ = c_i - c - d_i / (K eta) and c+ = -g / (K eta), that is (c_i - c) of the paper's eq. 3
and 4 times K eta; so nothing more has to travel. Written in updates it holds for AdamW too, whose steps are no
gradients. g is the mean of all d_i where all clients take part and the server takes the plain mean; where a client
missed rounds, the mean of the rounds since.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.adapters import AdapterState, Float32


@dataclass(frozen=True, eq=False)
class Drift:
    """What a client remembers of its newest round.

    Attributes:
        received: (size,) the adapter that it started from.
        rest: (size,) D_i - d_i.
    """

    received: Float32
    rest: Float32

    def correction(self, now: AdapterState, *, rounds: int) -> Float32:
        """D_i for a round that starts from `now`, so many rounds later; (size,)."""
        went: Float32 = ((now.flat - self.received) / np.float32(max(1, rounds))).astype(np.float32, copy=False)
        return self.rest + went

    def to_bytes(self) -> bytes:
        """For a client's memory."""
        return self.received.astype("<f4").tobytes() + self.rest.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, size: int) -> Drift | None:
        """What `to_bytes` made; None where it is lost or of another adapter."""
        if len(data) != 8 * size:
            return None
        received, rest = (np.frombuffer(data, "<f4", size, 4 * size * part).astype(np.float32) for part in (0, 1))
        return cls(received, rest)
