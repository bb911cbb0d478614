"""The fold of a masked round: the server has the sum of the updates, and no update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from plait.adapters import AdapterState
from plait.aggregation import RoundContext
from plait.errors import MachineError, PeerError
from plait.features.secagg.masked_rounds import MaskedRounds
from plait.features.secagg.masked_sum import Summed, sum_file
from plait.rounds.fold import Folded, outcome_of_mean
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.wire.envelope import Opened


class MaskedFold:
    """The rule's outcome on the mean of a masked sum."""

    def __init__(self, spool: Spool, masked: MaskedRounds) -> None:
        self._spool = spool
        self._masked = masked

    def check(self, opened: Opened, number: int) -> None:
        """No update arrives on its own."""

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """The stages of a sum settle who is in it."""
        del state, number, accepted
        return False

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """The rule's outcome on the mean; the step of a sum that is lost is zero.

        Raises:
            MachineError: the sum is gone.
            PeerError: it is one that clients within their bounds do not have.
        """
        del stored
        masked, parts = self._masked, self._spool.sent(context.round)
        kept = self._spool.directory.load_update(context.round, sum_file("train"))
        if kept is None:
            raise MachineError(f"the sum of round {context.round} is gone from the run's spool")
        summed = Summed.from_bytes(kept)
        if not summed.clients:
            still = AdapterState.zeros(context.geometry.layout)
            return Folded(outcome_of_mean(self._spool.rule, context, still, "the mean"), ())
        try:
            masked.check(summed)
        except PeerError as error:
            raise PeerError(
                f"round {context.round} has no usable sum: {error}. The run ends with the adapter of round "
                f"{context.round - 1}; another run can go on from it (--init-adapter)"
            ) from error
        grid = masked.grid(state, parts, summed)
        mean = grid.decode(summed.numbers, context.geometry.layout, clients=len(summed.clients))
        clip_norm = masked.next_clip(masked.clip_norm(state, parts), summed)
        length = masked.length(state, parts, summed)
        return Folded(
            outcome_of_mean(self._spool.rule, context, mean, "the mean"),
            summed.clients,
            keep=lambda before: replace(before, update_length=length, clip_norm=clip_norm),
        )
