"""The movement of the frozen base: the matrices that FLoRA, FedEx-LoRA and similar rules add to it.

Per module the float32 factors of a matrix, with the scaling factor included: W0' = W0 + b @ a. A round adds columns;
beyond the largest possible rank of a weight, QR reduces the sum to fewer. Its digest is a chain over the steps, not
over the values, since QR differs in its last bits between machines. `plait.rounds.base_changes` has what is sent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from plait.adapters import AdapterState
from plait.aggregation import BaseDelta, Geometry


@dataclass(frozen=True, eq=False)
class MovedBase:
    """The base's movement.

    Attributes:
        delta: module name to float32 factors; empty for a base that has not moved.
        digest: 32 bytes that identify all steps so far; empty for none.
    """

    delta: BaseDelta = field(default_factory=lambda: BaseDelta({}))
    digest: bytes = b""

    def after(self, step: AdapterState, geometry: Geometry) -> MovedBase:
        """The movement after one more step."""
        from plait.rounds.base_changes import delta_of

        hasher = hashlib.sha256(self.digest)
        hasher.update(step.digest())
        moved = self.delta.plus(delta_of(step, geometry)).rounded()
        return MovedBase(moved, hasher.digest())


UNMOVED = MovedBase()
"""A base that has not moved."""
