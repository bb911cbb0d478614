"""What a client carries from round to round, so that a round that is asked for twice starts from the same.

A round is asked for again when the server was killed before it had the answer. So a client keeps two values: the one
that its newest round started from and the one that this round left behind; a repeated round starts from the former.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from plait.rounds.memory import Memory

_HEAD = struct.Struct("<16sIQIQ")  # run id, round and size of each value


@dataclass(frozen=True)
class Past:
    """Two values of one kind.

    Attributes:
        run_id: the run that they belong to, 16 bytes.
        before_round: the round that left `before` behind; 0 for none.
        before: what the newest round started from; empty at first.
        after_round: the newest round.
        after: what it left behind.
    """

    run_id: bytes
    before_round: int = 0
    before: bytes = b""
    after_round: int = 0
    after: bytes = b""

    def given_in(self, round_number: int) -> tuple[int, bytes]:
        """What a round starts from, whether it is asked for the first time or again.

        Returns:
            (the round that left it behind, the value); (0, empty) for none.
        """
        if round_number <= self.after_round:
            return self.before_round, self.before
        return self.after_round, self.after

    def settled(self, round_number: int, left: bytes) -> Past:
        """The two values once a round has left `left` behind."""
        number, given = self.given_in(round_number)
        return Past(self.run_id, number, given, round_number, left)

    def to_bytes(self) -> bytes:
        """For a client's memory."""
        head = _HEAD.pack(self.run_id, self.before_round, len(self.before), self.after_round, len(self.after))
        return b"".join((head, self.before, self.after))

    @classmethod
    def from_bytes(cls, data: bytes | None, run_id: bytes) -> Past:
        """What `to_bytes` made; nothing, where it is lost, damaged or of another run."""
        if data is None or len(data) < _HEAD.size:
            return cls(run_id)
        kept_run, before_round, before_bytes, after_round, after_bytes = _HEAD.unpack_from(data)
        if kept_run != run_id or len(data) != _HEAD.size + before_bytes + after_bytes:
            return cls(run_id)
        middle = _HEAD.size + before_bytes
        return cls(run_id, before_round, data[_HEAD.size : middle], after_round, data[middle:])


def recall_past(memory: Memory, key: str, run_id: bytes) -> Past:
    """The past that is kept under `key`."""
    return Past.from_bytes(memory.load(key), run_id)
