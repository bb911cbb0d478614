"""The fold of an asynchronous round: how far it moves depends on how much its updates weigh (see buffer.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from plait.adapters import AdapterState
from plait.aggregation import RoundContext
from plait.features.asynchronous.buffer import Buffer
from plait.rounds.fold import Fold, Folded
from plait.rounds.run_state import RunState
from plait.rounds.spool import Stored


class BufferedFold:
    """The fold of a buffer's updates, made of that of a round's."""

    def __init__(self, inner: Fold, buffer: Buffer) -> None:
        self._inner = inner
        self._buffer = buffer

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """As the inner one."""
        return self._inner.is_settled(state, number, accepted)

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """The rule's outcome, as far as the buffer moves it."""
        folded = self._inner.fold(state, context, stored)
        counted = [arrival.weight for client in folded.clients if (arrival := stored[client].arrival)]
        step, moved = folded.outcome.step, np.float32(self._buffer.moved(counted))
        outcome = replace(folded.outcome, step=AdapterState(step.layout, step.flat * moved))

        def keep(before: RunState) -> RunState:
            return folded.keep(self._buffer.kept(before, folded.clients))

        return replace(folded, outcome=outcome, keep=keep)
