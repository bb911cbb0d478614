"""From the stored updates of a round to the next state: the fold's outcome, the server optimizer's step, the broadcast.

Knows no channel, and no way to fold but that it is a `Fold`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from plait.adapters import AdapterState, Json, norm
from plait.aggregation import OptimizerState, RoundContext, ServerOptimizer
from plait.errors import MachineError
from plait.rounds.broadcasts import follow
from plait.rounds.downlink import Downlink
from plait.rounds.events import RoundFinished
from plait.rounds.fold import Fold, Folded
from plait.rounds.run_state import RunState, advance
from plait.rounds.spool import Spool, Stored
from plait.rounds.watch import Standing
from plait.wire.codec import Codec
from plait.wire.envelope import Encoding


class TakesBack(StrEnum):
    """How far a step that made the adapter worse can be taken back."""

    HALF = "half"
    ALL = "all"
    """Factors are other ones in every round, and a mean of two pairs of them is neither."""


@dataclass(eq=False, kw_only=True)
class Aggregator:
    """Fold, server optimizer and codec of one run, over its spool.

    Args:
        optimizer: makes a step of what the rule gives.
        downlink: how clients get to the shadow.
    """

    spool: Spool
    fold: Fold
    optimizer: ServerOptimizer
    codec: Codec
    seed: int
    downlink: Downlink = field(default_factory=Downlink)

    def step(
        self, state: RunState, number: int, stored: Mapping[str, Stored], *, standing: Standing | None = None
    ) -> tuple[RunState, RoundFinished]:
        """What rule and server optimizer make of the stored updates.

        Args:
            standing: of the run, if steps that made the adapter worse are taken back and later ones shortened.

        Returns:
            (the state after the round, its event; the caller knows how many updates it lacked, and its time).

        Raises:
            MachineError: a stored update is gone.
            PeerError: none of them counts, or the fold may not be made.
        """
        step, folded, optimizer_memory = self.combined(state, number, stored, standing=standing)
        outcome = folded.outcome
        state = advance(folded.keep(state), step)
        state = replace(state, rule_memory=outcome.memory, optimizer_memory=optimizer_memory, besides=folded.besides)
        # Of a masked sum nothing is stored for a client.
        took_part = max(len(stored), len(folded.clients))
        state, encoding = self._follow(state, missed=max(0, self.downlink.clients - took_part))
        finished = RoundFinished(
            round=number,
            rule=self.spool.rule.name,
            received=len(folded.clients),
            update_norm=norm(step),
            figures=outcome.figures or None,
            adapter=state.shadow.digest().hex(),
            broadcast_distortion=encoding.distortion,
            broadcast_codec_s=round(encoding.codec_s, 4),
        )
        return state, finished.model_copy(update=dict(folded.told))

    def combined(
        self, state: RunState, number: int, stored: Mapping[str, Stored], *, standing: Standing | None = None
    ) -> tuple[AdapterState, Folded, OptimizerState]:
        """The step that rule and server optimizer make of the stored updates, which `step` takes.

        Returns:
            (the step, what was folded, the optimizer's memory after it).

        Raises:
            MachineError: a stored update is gone.
            PeerError: none of them counts, or the fold may not be made.
        """
        master = self.spool.ranks.master
        context = RoundContext(
            round=number,
            master=state.shadow,
            geometry=master.geometry,
            initial=master.initial,
            seed=self.seed,
            cohort=self.spool.ranks.cohort,
            memory=state.rule_memory,
        )
        folded = self.fold.fold(state, context, stored)
        outcome = folded.outcome
        if standing and standing.follows_steps_back(number):
            # Clients measured along a way that the server's step did not take.
            outcome = replace(outcome, slope=None)
        step, memory = self.optimizer.adjust(outcome, state.optimizer_memory, context)
        scale = standing.scale if standing else 1.0
        if scale != 1 and self.takes_back is TakesBack.HALF:
            step = AdapterState(step.layout, step.flat * np.float32(scale))
        return step, folded, memory

    @property
    def takes_back(self) -> TakesBack:
        """How far a step of this run can be taken back."""
        return TakesBack.ALL if self.spool.new_factors else TakesBack.HALF

    def take_back(self, state: RunState) -> tuple[RunState, dict[str, Json]]:
        """The state once the steps since the last accepted evaluation are taken back by half, or all of them.

        Clients hold the adapter that is taken back, so the next broadcast leads from it.

        Returns:
            (the state, fields for the ledger).

        Raises:
            MachineError: nothing is kept to go back to.
        """
        if state.accepted is None:
            raise MachineError("no earlier adapter is kept to go back to")
        wanted = state.accepted
        if self.takes_back is TakesBack.HALF:
            wanted = AdapterState(wanted.layout, (wanted.flat + state.adapter.flat) * np.float32(0.5))
        state, encoding = self._follow(replace(state, adapter=wanted), missed=0)
        return state, {
            "adapter": state.shadow.digest().hex(),
            "taken_back": self.takes_back.value,
            "broadcast_distortion": encoding.distortion,
        }

    def _follow(self, state: RunState, *, missed: int) -> tuple[RunState, Encoding]:
        return follow(
            state,
            self.spool.ranks,
            self.spool.base_fingerprint,
            codec=self.codec,
            new_factors=self.spool.new_factors,
            downlink=self.downlink,
            missed=missed,
        )
