"""The fold of an asynchronous round: how far it moves depends on how much its updates weigh (see buffer.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from plait.adapters import AdapterState
from plait.aggregation import RoundContext
from plait.rounds.buffer import Buffer
from plait.rounds.fold import Folded, PlainFold
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.wire.envelope import Opened


class BufferedFold:
    """A plain fold of a buffer's updates."""

    def __init__(self, spool: Spool, buffer: Buffer) -> None:
        self._plain = PlainFold(spool)
        self._buffer = buffer

    def check(self, opened: Opened, number: int) -> None:
        """What a plain fold checks."""
        self._plain.check(opened, number)

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """What is in a buffer may be joined by others."""
        return self._plain.is_settled(state, number, accepted)

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """The rule's outcome, as far as the buffer moves it."""
        folded = self._plain.fold(state, context, stored)
        counted = [arrival.weight for client in folded.clients if (arrival := stored[client].arrival)]
        step, moved = folded.outcome.step, np.float32(self._buffer.moved(counted))
        outcome = replace(folded.outcome, step=AdapterState(step.layout, step.flat * moved))

        def keep(before: RunState) -> RunState:
            return folded.keep(self._buffer.kept(before, folded.clients))

        return replace(folded, outcome=outcome, keep=keep)
