"""Masked rounds: the server gathers the sum of a round's updates, and no update."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

from plait.errors import MachineError, PeerError
from plait.features.secagg.events import EvaluationMissed
from plait.features.secagg.figures import EVALUATION, decode_figures, scores_of
from plait.features.secagg.masked_attempts import MaskedAttempts
from plait.features.secagg.masked_rounds import MaskedRounds
from plait.features.secagg.masked_sum import MaskedSums
from plait.features.secagg.server import Sealed, TooFewError
from plait.rounds.channel import Purpose
from plait.rounds.collector import ServerSide
from plait.rounds.events import Evaluated
from plait.rounds.ledger import read_events
from plait.rounds.run_state import RunState
from plait.trust.identity import Vouch

if TYPE_CHECKING:
    from plait.features.privacy.private_rounds import PrivateRounds


@dataclass(eq=False)
class MaskedCollector:
    """Gathers masked sums.

    Attributes:
        vouch: whether a node key is the client's that an offer names.
    """

    server: ServerSide
    masked: MaskedRounds
    vouch: Vouch

    def __post_init__(self) -> None:
        server = self.server
        self._sums = MaskedSums(
            server.channel, server.directory, server.ledger, self.vouch, server.tasks.patience, self._pay_for
        )
        self._sums.recall(read_events(server.directory.ledger))
        self._attempts = MaskedAttempts(
            plan=server.plan,
            sums=self._sums,
            log=server.log,
            parameters=server.spool.ranks.master.spec.layout.size,
            dispatch=server.tasks.dispatch,
            gather=lambda _roster: server.gather(),
            deadline=server.tasks.deadline,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Each attempt withdraws its own tasks."""

    def next(self, state: RunState) -> RunState:
        """The state after the next round.

        Raises:
            CannotPayError: the noise of the sum would exceed the run's epsilon.
            PeerError: no attempt gave a sum.
        """
        server, started, number = self.server, time.perf_counter(), state.round + 1
        wanted = self.masked.wanted(state, server.spool.sent(number))
        result = self._attempts.run(wanted, Purpose.TRAIN, state, server.roster)
        if isinstance(result, TooFewError):
            raise PeerError(
                f"round {number} ended without a sum in {server.plan.attempts} attempts: {result}"
            ) from result
        in_reach = server.plan.cohort_size if server.waits else len(server.roster.nodes)
        return server.close(result, {}, wanted=min(server.plan.cohort_size, in_reach), started=started)

    def evaluate(self, state: RunState) -> tuple[RunState, Evaluated | None]:
        """The mean held-out loss; which client's is how large stays at the clients."""
        wanted = self.masked.wanted_losses(state)
        result = self._attempts.run(wanted, Purpose.EVALUATE, state, self.server.roster)
        if isinstance(result, TooFewError):
            if self.server.waits:
                self.server.ledger.append(EvaluationMissed(round=state.round, detail=str(result)))
                return state, None
            raise PeerError(f"round {state.round} could not be evaluated: {result}") from result
        summed = self._sums.stored(wanted)
        if summed is None:
            raise MachineError(f"the sum of the losses of round {state.round} is gone from the run's spool")
        try:
            if not summed.clients:
                raise PeerError("the sum of the losses cannot be unmasked")
            mean, own = scores_of(decode_figures(summed.figures, EVALUATION), clients=len(summed.clients))
        except PeerError as error:
            # One member's figures are no reason to end the others' run.
            self.server.ledger.append(EvaluationMissed(round=state.round, detail=str(error)))
            return result, None
        return result, Evaluated(round=state.round, adapter=state.shadow.digest().hex(), **dict(mean), own=own)

    def _pay_for(self, sealed: Sealed) -> None:
        """Record that a sum with its clients' own noise is about to be known."""
        if self.masked.privacy:
            roster = sealed.roster
            commitment = hashlib.sha256(roster.survivors_text(sealed.sharers, sealed.survivors)).hexdigest()
            clip_norm = roster.unit * self.masked.privacy.shares(roster.size).sensitivity
            private = cast("PrivateRounds", self.server.costs)
            private.intend(roster.session.round, commitment, clip_norm=clip_norm)
