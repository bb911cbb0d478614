"""Bounds on what nodes and strangers may use of a server, in one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.transfers import Pace


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        max_answer_bytes: larger answers are refused before anything is received.
        grace_s: the tasks of a node that is away for longer are given up.
        max_nodes: the most nodes that may be attached.
        max_unproven: the most nodes that may enrol at a time; more wait, at most two of one certificate's name.
        strangers: connections besides these, for operators and for peers that prove nothing.
        handshake_s: seconds a node has to prove its key, and an upload to announce itself.
        transfers_at_once: the most uploads, and the most downloads, at a time while others wait. An upload takes about
            3 MB of memory, a download 2 MB.
        pace: the minimum rate of an upload or a download.
    """

    max_answer_bytes: int
    grace_s: float = 30.0
    max_nodes: int = 10_000
    max_unproven: int = 256
    strangers: int = 4096
    handshake_s: float = 10.0
    transfers_at_once: int = 32
    pace: Pace = field(default_factory=Pace)

    @property
    def max_connections(self) -> int:
        """The most connections at a time."""
        return self.max_nodes + self.max_unproven + self.strangers
