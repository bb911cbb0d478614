"""Error feedback at a client: what its encoder dropped is added to its next delta.

EF-SGD (Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", arXiv 1901.09847,
algorithm 2) on adapter deltas: with delta d, residual e and codec C, the client sends C(d + e) and keeps
e' = (d + e) - C(d + e).

A round may be asked for twice (the server was killed before it had the answer), so two residuals are kept, the one that
the newest round started from and the one that it left behind; a repeated round starts from the former again. Both
belong to one run.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from plait.adapters import AdapterState, Layout

_HEAD = struct.Struct("<16sIB")  # run id, round that left it behind, whether it is not zero


@dataclass(frozen=True)
class Residual:
    """What a client still owes its server.

    Attributes:
        run_id: the run that it belongs to, 16 bytes.
        before_round: the round that left `before` behind; 0 for none.
        before: what the newest round started from.
        after_round: the newest round.
        after: what it left behind.
    """

    run_id: bytes
    before_round: int
    before: AdapterState
    after_round: int
    after: AdapterState

    @classmethod
    def none(cls, run_id: bytes, layout: Layout) -> Residual:
        """The residual of a client that has sent nothing yet."""
        zero = AdapterState.zeros(layout)
        return cls(run_id, 0, zero, 0, zero)

    def owed_in(self, round_number: int) -> AdapterState:
        """What has to be added to the delta of a round, whether it is asked for the first time or again."""
        return self.before if round_number <= self.after_round else self.after

    def settled(self, round_number: int, left: AdapterState) -> Residual:
        """The residual once the round has left `left` behind."""
        if round_number <= self.after_round:
            return Residual(self.run_id, self.before_round, self.before, round_number, left)
        return Residual(self.run_id, self.after_round, self.after, round_number, left)

    def to_bytes(self) -> bytes:
        """For a client's memory."""
        return b"".join(
            _HEAD.pack(self.run_id, number, bool(state.flat.any()))
            + (state.flat.tobytes() if state.flat.any() else b"")
            for number, state in ((self.before_round, self.before), (self.after_round, self.after))
        )


def residual_from_bytes(data: bytes | None, run_id: bytes, layout: Layout) -> Residual:
    """What `Residual.to_bytes` kept; nothing is owed where it is lost, or of another run or adapter."""
    none = Residual.none(run_id, layout)
    if data is None:
        return none
    parts: list[tuple[int, AdapterState]] = []
    offset = 0
    try:
        for _ in range(2):
            kept_run, number, is_there = _HEAD.unpack_from(data, offset)
            offset += _HEAD.size
            if kept_run != run_id:
                return none
            state = AdapterState.zeros(layout)
            if is_there:
                state = AdapterState(layout, np.frombuffer(data, "<f4", layout.size, offset).astype(np.float32))
                offset += 4 * layout.size
            parts.append((number, state))
    except (struct.error, ValueError):
        return none
    if offset != len(data):
        return none
    (before_round, before), (after_round, after) = parts
    return Residual(run_id, before_round, before, after_round, after)
