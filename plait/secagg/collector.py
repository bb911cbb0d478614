"""Masked rounds at the server: whom a sum invites, how often it is tried, and what the ledger records of it."""

import hashlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from plait.errors import MachineError, PeerError
from plait.guarantees import LEAST_CLIENTS
from plait.ledger import events
from plait.ledger.events import Reason
from plait.ledger.ledger import read_events
from plait.ledger.redaction import EvaluationMissed
from plait.privacy.run import PrivateRounds
from plait.rounds.channel import NoAnswer, Purpose
from plait.rounds.cohort import Collector, ServerContext
from plait.rounds.coordinator import Way
from plait.rounds.dispatch import RoundAnswer, mark_failed
from plait.rounds.evaluation import metric_figures
from plait.rounds.run_state import RunState, choose_cohort, note_held
from plait.secagg.journal import evaluators_of
from plait.secagg.rounds import MaskedFold, MaskedRounds
from plait.secagg.server import SealedSum, TooFewError
from plait.secagg.stages import TRAINING_STAGE, ContestedError, MaskedSums, seated
from plait.secagg.sums import WantedSum, decode_figures, scores_of
from plait.trust.keys import Vouch
from plait.wire.masked_messages import MaskedReply, MaskedUpdate
from plait.wire.masked_roster import MaskedAttempt
from plait.wire.messages import Refusal, RefusalReason


@dataclass(eq=False)
class MaskedCollector(Collector):
    """Gathers the masked sums of one run; `vouch` checks that a node key is the named client's."""

    server: ServerContext
    masked: MaskedRounds
    vouch: Vouch

    def __post_init__(self) -> None:
        self._declined: dict[Purpose, set[frozenset[str]]] = {purpose: set() for purpose in Purpose}
        self._sums = MaskedSums(self.server, self.vouch, self._pay_for)
        recorded = read_events(self.server.spool.directory.ledger)
        self._sums.recall(recorded)
        for event in recorded:
            if isinstance(event, events.RoundStarted):
                self._seat(event.cohort)

    def next(self, state: RunState) -> RunState:
        """The state after the next round."""
        server, started, number = self.server, time.perf_counter(), state.round + 1
        wanted = self.masked.wanted(state, server.spool.sent(number))
        result = self._attempt(wanted, Purpose.TRAIN, state)
        if isinstance(result, TooFewError):
            raise PeerError(
                f"round {number} ended without a sum in {server.plan.attempts} attempts: {result}"
            ) from result
        in_reach = server.plan.cohort_size if server.waits else len(server.roster.nodes)
        return server.close(result, {}, wanted=min(server.plan.cohort_size, in_reach), started=started)

    def evaluate(self, state: RunState) -> tuple[RunState, events.Evaluated | None]:
        """The mean held-out loss; which client's is how large stays at the clients."""
        return self._evaluate(state, Purpose.EVALUATE)

    def judge(self, state: RunState) -> events.Evaluated | None:
        """The same of the judge parts, which every client has."""
        return self._evaluate(state, Purpose.JUDGE)[1]

    def _evaluate(self, state: RunState, purpose: Purpose) -> tuple[RunState, events.Evaluated | None]:
        wanted, ledger = self.masked.wanted_losses(state, purpose.value), self.server.ledger
        result = self._attempt(wanted, purpose, state)
        if isinstance(result, TooFewError):
            if self.server.waits or purpose is Purpose.JUDGE:
                ledger.append(EvaluationMissed(round=state.round, detail=str(result)))
                return state, None
            raise PeerError(f"round {state.round} could not be evaluated: {result}") from result
        summed = self._sums.stored(wanted)
        if summed is None:
            raise MachineError(f"the sum of the losses of round {state.round} is gone from the run's spool")
        try:
            if not summed.clients:
                raise PeerError("the sum of the losses cannot be unmasked")
            sums, clients = decode_figures(summed.figures, self.masked.evaluated), len(summed.clients)
            mean, own = scores_of(sums, clients=clients)
            metrics = self._metrics(sums, clients)
        except PeerError as error:
            # One member's figures are no reason to end the others' run.
            ledger.append(EvaluationMissed(round=state.round, detail=str(error)))
            return result, None
        return result, events.Evaluated(
            round=state.round, adapter=state.shadow.digest().hex(), **{**dict(mean), **metrics}, own=own
        )

    def _metrics(self, sums: Mapping[str, float], clients: int) -> dict[str, Any]:
        """The figures of the sums of so many clients' metrics; PeerError if one of them sent impossible ones."""
        metrics, most = self.masked.metrics, self.server.plan.settings.max_held_out_sequences
        found = {place: sums[name] for place, name in enumerate(metrics.scales) if sums[name]}
        metrics.check(found, least=clients, most=clients * most)
        return metric_figures(metrics, found)

    def _pay_for(self, sealed: SealedSum) -> None:
        """Record that a sum with its clients' own noise is about to be known."""
        if self.masked.privacy:
            roster = sealed.roster
            commitment = hashlib.sha256(roster.survivors_text(sealed.sharers, sealed.survivors)).hexdigest()
            clip_norm = roster.unit * self.masked.privacy.shares(roster.size).sensitivity
            private = cast("PrivateRounds", self.server.costs)
            private.intend(roster.session.round, commitment, clip_norm=clip_norm)

    def _attempt(self, wanted: WantedSum, purpose: Purpose, state: RunState) -> RunState | TooFewError:
        """The state after a sum, or why the last attempt at it failed.

        A round has so many attempts, and one more for each that a complaint ends.
        """
        server, error, lost = self.server, TooFewError("no attempt was made"), set[str]()
        attempt = failed = 0
        # Each complaint leaves a client out.
        most = server.plan.attempts + len(server.roster.nodes)
        while failed < server.plan.attempts and attempt < most:
            attempt += 1
            if self._sums.stored(wanted) is not None:
                return state
            if server.channel.open_ended:
                server.gather()
            chosen = self._invited(wanted, purpose, attempt, without=lost)
            if not chosen:
                error = TooFewError(
                    "any sum of losses would reveal a few clients: those that came or left since an earlier one"
                )
                break
            if purpose is Purpose.TRAIN:
                server.ledger.append(events.RoundStarted(round=wanted.round, cohort=tuple(chosen)))
                self._seat(chosen)
            try:
                return self._take(wanted, purpose, state, chosen)
            except ContestedError as contested:
                error = contested
            except TooFewError as too_few:
                error, failed = too_few, failed + 1
                if declined := error.declined:
                    self._declined[purpose].add(declined)
                    # A client that was lost on the way may be lost again, and the others decline again.
                    lost |= set(chosen) - declined
            server.ledger.append(events.RoundMissed(round=wanted.round, attempt=attempt, received=error.count))
        if guilty := sorted(self._sums.left_out):
            names = ", ".join(map(repr, guilty))
            return TooFewError(f"{error}; left out, because they depart from the protocol: {names}", count=error.count)
        return error

    def _invited(self, wanted: WantedSum, purpose: Purpose, attempt: int, *, without: Collection[str]) -> Sequence[str]:
        plan, sums = self.server.plan, self._sums
        names = [name for name in self.server.roster.nodes if sums.may_be_invited(wanted, name)]
        if purpose is Purpose.TRAIN:
            return self._cohort(wanted, names, without)
        names = [name for name in names if name not in without]
        clients = plan.evaluators(names)
        order = wanted.run_id + wanted.round.to_bytes(8, "big") + attempt.to_bytes(4, "big")
        chosen = evaluators_of(
            clients,
            names,
            earlier=sums.evaluations,
            declined=self._declined[purpose],
            least=wanted.least,
            order=order,
        )
        # Where none are safe, clients that keep a journal refuse once; simulated ones keep none.
        return chosen or (() if self._declined[purpose] else clients)

    def _cohort(self, wanted: WantedSum, names: Sequence[str], without: Collection[str]) -> Sequence[str]:
        """The clients of a round: the same as before where all are meant, and two fewer than would not sign its sum."""
        plan, seats = self.server.plan, self._sums.seats
        known = [name for name in seats if name in names]
        if not known:
            return choose_cohort(names, plan.cohort_size, seed=plan.seed, round_number=wanted.round)[0]
        cohort = [*known, *sorted(set(names) - seats.keys())][: plan.cohort_size]
        left = [name for name in cohort if name not in without]
        if frozenset(left) in self._declined[Purpose.TRAIN] and len(left) > wanted.least * wanted.groups + 1:
            cohort = left[: 1 - LEAST_CLIENTS]
        return sorted(cohort)

    def _seat(self, cohort: Sequence[str]) -> None:
        """Keep the clients of a round, and the groups that they are dealt to, where each round is meant to have all."""
        if not (self.masked.draws or self.masked.privacy):
            key, sums = str(self.server.plan.seed), self._sums
            sums.seats = seated(cohort, self.masked.groups, key=key, before=sums.seats)

    def _take(self, wanted: WantedSum, purpose: Purpose, state: RunState, chosen: Sequence[str]) -> RunState:
        """Take a masked sum, in one attempt; it is on disk afterwards."""
        server, roster, log = self.server, self.server.roster, self.server.log
        answered: list[str] = []
        declined: frozenset[str] = frozenset()

        def ask(session: MaskedAttempt, clients: Sequence[str]) -> Iterator[tuple[str, MaskedUpdate]]:
            nonlocal declined
            deadline = server.deadline()
            with server.dispatch(state, purpose, attempt=session.attempt) as dispatch:
                for client in clients:
                    dispatch.ask(client)
                while answer := dispatch.next_answer(deadline):
                    reply = answer.reply
                    if not (isinstance(reply, MaskedReply) and isinstance(reply.answer, MaskedUpdate)):
                        log.failure(wanted.round, answer, stage=TRAINING_STAGE)
                        if isinstance(reply, Refusal) and reply.reason is RefusalReason.POLICY:
                            declined = frozenset(clients)
                        else:
                            mark_failed(roster, answer)
                        continue
                    self._note(wanted, answer, reply.answer)
                    answered.append(answer.client)
                    yield answer.client, reply.answer
                late = Reason.NO_ANSWER if deadline is None else Reason.LATE
                for client in sorted(dispatch.waiting):
                    silent = RoundAnswer(client, NoAnswer("gave no answer"), 0)
                    log.failure(wanted.round, silent, reason=late, stage=TRAINING_STAGE)

        try:
            self._sums.take(wanted, chosen, ask)
        except TooFewError as error:
            error.declined = declined or error.declined
            raise
        return note_held(state, dict.fromkeys(answered, state.held_on(0)))

    def _note(self, wanted: WantedSum, answer: RoundAnswer, update: MaskedUpdate) -> None:
        number, client, uplink_bytes = wanted.round, answer.client, answer.uplink_bytes
        if wanted.purpose != Purpose.TRAIN.value:
            reply = events.ReplyReceived(round=number, client=client, purpose=wanted.purpose, uplink_bytes=uplink_bytes)
            self.server.ledger.note(reply)
            return
        parameters = self.server.spool.ranks.master.spec.layout.size
        self.server.ledger.note(
            events.UpdateReceived(
                round=number,
                client=client,
                uplink_bytes=uplink_bytes,
                payload_bytes=len(update.values),
                codec=events.MASKED_CODEC,
                bits_per_parameter=8 * len(update.values) / parameters,
            )
        )


def with_masks(way: Way, masked: MaskedRounds, vouch: Vouch) -> Way:
    """The way of a run whose server sees sums; `vouch` checks that a node key is the named client's."""
    return replace(
        way,
        collecting=partial(MaskedCollector, masked=masked, vouch=vouch),
        folding=partial(MaskedFold, masked=masked),
        least=masked.least("train"),
    )
