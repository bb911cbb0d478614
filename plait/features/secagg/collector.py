"""The attempts at a masked sum: which clients they invite, how they ask for updates, and what the ledger records.

Knows no rule, no state and no stage but that of the updates (see masked_sum.py for the others).

Masked rounds: the server gathers the sum of a round's updates, and no update.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, cast

from plait.errors import MachineError, PeerError
from plait.features.secagg.events import EVALUATION, EvaluationMissed, decode_figures, scores_of
from plait.features.secagg.journal import evaluators_of
from plait.features.secagg.messages import MaskedReply, MaskedUpdate
from plait.features.secagg.roster import Session
from plait.features.secagg.rounds import MaskedRounds
from plait.features.secagg.server import Sealed, TooFewError
from plait.features.secagg.stage import TRAINING_STAGE
from plait.features.secagg.sums import ContestedError, DeclinedError, MaskedSums, Wanted
from plait.rounds import events
from plait.rounds.answer_log import AnswerLog
from plait.rounds.channel import NoAnswer, Purpose
from plait.rounds.collector import ServerSide
from plait.rounds.dispatch import Answer, Dispatch, doubt
from plait.rounds.events import Evaluated
from plait.rounds.ledger import read_events
from plait.rounds.reason import Reason
from plait.rounds.roster import Roster
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RunState, choose_cohort, note_held
from plait.trust.identity import Vouch

if TYPE_CHECKING:
    from plait.features.privacy.rounds import PrivateRounds


@dataclass(eq=False, kw_only=True)
class MaskedAttempts:
    """Takes the masked sums of one run.

    Attributes:
        deadline: when to stop waiting for answers to tasks that are sent now.
    """

    plan: RunPlan
    sums: MaskedSums
    log: AnswerLog
    parameters: int
    dispatch: Callable[..., Dispatch]
    gather: Callable[[Roster], None]
    deadline: Callable[[], float | None]
    _declined: set[frozenset[str]] = field(default_factory=set[frozenset[str]], init=False)

    def run(self, wanted: Wanted, purpose: Purpose, state: RunState, roster: Roster) -> RunState | TooFewError:
        """Take a masked sum, in as many attempts as a round has.

        One that a complaint ends does not count: each leaves a client out.

        Returns:
            The state, with what clients are known to hold; or why the last attempt failed.
        """
        error: TooFewError | None = None
        lost = set[str]()
        attempt = failed = 0
        most = self.plan.attempts + len(roster.nodes)
        while failed < self.plan.attempts and attempt < most:
            attempt += 1
            if self.sums.stored(wanted) is not None:
                return state
            if self.log.channel.open_ended:
                self.gather(roster)
            chosen = self._invited(wanted, purpose, roster, attempt, without=lost)
            if not chosen:
                detail = "any sum of losses would reveal a few clients: those that came or left since an earlier one"
                error = TooFewError(detail, count=0)
                break
            if purpose is Purpose.TRAIN:
                self.log.ledger.append(events.RoundStarted(round=wanted.round, cohort=tuple(chosen)))
            try:
                return self._take(wanted, purpose, state, roster, chosen)
            except ContestedError as contested:
                error = contested
            except DeclinedError as declined:
                error, failed = declined, failed + 1
                if purpose is Purpose.EVALUATE:
                    self._declined.add(declined.clients)
                    # A client that was lost on the way may be lost again, and the others decline again.
                    lost |= set(chosen) - declined.clients
            except TooFewError as too_few:
                error, failed = too_few, failed + 1
            self.log.ledger.append(events.RoundMissed(round=wanted.round, attempt=attempt, received=error.count))
        if error and (guilty := sorted(self.sums.left_out)):
            names = ", ".join(map(repr, guilty))
            return TooFewError(f"{error}; left out, because they depart from the protocol: {names}", count=error.count)
        return error or TooFewError("no attempt was made, expected at least 1")

    def _invited(
        self, wanted: Wanted, purpose: Purpose, roster: Roster, attempt: int, *, without: Collection[str]
    ) -> Sequence[str]:
        names = [name for name in roster.nodes if name not in without and self.sums.may_be_invited(wanted, name)]
        if purpose is Purpose.EVALUATE:
            clients = self.plan.evaluators(names)
            chosen = evaluators_of(
                clients,
                names,
                earlier=self.sums.evaluations,
                declined=self._declined,
                least=wanted.least,
                order=wanted.run_id + wanted.round.to_bytes(8, "big") + attempt.to_bytes(4, "big"),
            )
            # Where none are safe, clients that keep a journal say so once; simulated ones keep none.
            return chosen or (() if self._declined else clients)
        size = self.plan.cohort_size
        return choose_cohort(names, size, over_selection=0, seed=self.plan.seed, round_number=wanted.round)[0]

    def _take(
        self, wanted: Wanted, purpose: Purpose, state: RunState, roster: Roster, chosen: Sequence[str]
    ) -> RunState:
        """Take a masked sum; it is on disk afterwards.

        Raises:
            TooFewError: too few clients were left at some stage.
        """
        answered: list[str] = []

        def ask(session: Session, clients: Sequence[str]) -> Iterator[tuple[str, MaskedUpdate]]:
            deadline = self.deadline()
            with self.dispatch(state, roster, purpose, wanted.round, attempt=session.attempt) as dispatch:
                for client in clients:
                    dispatch.ask(client)
                while answer := dispatch.next_answer(deadline):
                    reply = answer.reply
                    if not (isinstance(reply, MaskedReply) and isinstance(reply.answer, MaskedUpdate)):
                        self.log.failure(wanted.round, answer, stage=TRAINING_STAGE)
                        doubt(roster, answer)
                        continue
                    self._note(wanted, answer, reply.answer)
                    answered.append(answer.client)
                    yield answer.client, reply.answer
                late = Reason.NO_ANSWER if deadline is None else Reason.LATE
                for client in sorted(dispatch.waiting):
                    silent = Answer(client, NoAnswer("gave no answer"), 0)
                    self.log.failure(wanted.round, silent, reason=late, stage=TRAINING_STAGE)

        self.sums.take(wanted, roster, chosen, ask)
        return note_held(state, dict.fromkeys(answered, state.held_on(0)))

    def _note(self, wanted: Wanted, answer: Answer, update: MaskedUpdate) -> None:
        number, client, uplink_bytes = wanted.round, answer.client, answer.uplink_bytes
        if wanted.purpose == Purpose.EVALUATE.value:
            purpose = wanted.purpose
            self.log.ledger.note(
                events.ReplyReceived(round=number, client=client, purpose=purpose, uplink_bytes=uplink_bytes)
            )
            return
        payload_bytes = len(update.values)
        self.log.ledger.note(
            events.UpdateReceived(
                round=number,
                client=client,
                uplink_bytes=uplink_bytes,
                payload_bytes=payload_bytes,
                codec=events.MASKED_CODEC,
                bits_per_parameter=8 * payload_bytes / self.parameters,
            )
        )


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
