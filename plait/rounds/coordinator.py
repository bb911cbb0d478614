"""The server's side of a run: describe the clients, then broadcast, train, fold, checkpoint and evaluate by the round.

Works the same over every driver: it sees a `Channel`, a run directory, a rule and a codec. Spool, then fold: an update
is on disk before anything else happens to it, and the updates of a round are folded in client order once the round's
answers are in, so the result does not depend on who answered first. A run that was stopped anywhere goes on to the same
result, and what the ledger lacks of what is on disk is added first. Knows no torch, no Flower and no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from plait.adapters import AdapterSpec, AdapterState, Json, norm
from plait.aggregation import Rule
from plait.errors import Interrupted, PeerError
from plait.rounds.broadcasts import Broadcasts, follow
from plait.rounds.channel import Channel, Purpose
from plait.rounds.checkpoint import save_checkpoint
from plait.rounds.evaluation import ClientLoss, mean_loss
from plait.rounds.ledger import Event, Ledger, read_events
from plait.rounds.roster import REPLY_BYTES, Roster, describe_clients
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState, advance, client_seed, note_held, sample_cohort
from plait.rounds.validate import Expected, UpdateRefused, check_evaluation, max_update_bytes, open_update
from plait.wire.codec import Codec
from plait.wire.envelope import Opened, measure
from plait.wire.messages import (
    EvaluateTask,
    Evaluation,
    Refusal,
    RefusalReason,
    Reply,
    Settings,
    TrainTask,
    UpdateReply,
    decode_reply,
    encode_reply,
    encode_task,
)


@dataclass(frozen=True)
class RunPlan:
    """The settings that the round loop itself needs; what clients need is in `settings`."""

    rounds: int
    clients: int
    cohort_size: int
    eval_every: int
    seed: int
    settings: Settings


@dataclass(frozen=True)
class Answer:
    """One client's last word on a task: a decoded reply, or in words why there is none."""

    client: str
    reply: Reply | str
    uplink_bytes: int


class Coordinator:
    """Runs the rounds that are still to do."""

    def __init__(
        self,
        *,
        channel: Channel,
        directory: RunDirectory,
        ledger: Ledger,
        plan: RunPlan,
        spec: AdapterSpec,
        base_fingerprint: bytes,
        rule: Rule,
        codec: Codec,
        publish: Callable[[RunState], None],
    ) -> None:
        self._channel = channel
        self._directory = directory
        self._ledger = ledger
        self._plan = plan
        self._spec = spec
        self._base = base_fingerprint
        self._rule = rule
        self._codec = codec
        self._publish = publish

    def run(self, state: RunState) -> RunState:
        """Finish the run.

        Args:
            state: where it stands.

        Returns:
            The final state; checkpoints, ledger and published adapter are up to date after every round.

        Raises:
            PeerError: fewer clients than planned, or a round without a usable update.
            Interrupted: the user asked to stop.
            MachineError: the disk is full.
        """
        plan = self._plan
        recorded = _Recorded.of(read_events(self._directory.ledger))
        try:
            if recorded.finished < state.round:
                self._conclude(state)
            roster = describe_clients(
                self._channel, self._ledger, plan.settings, self._spec, self._base, expected=plan.clients
            )
            if state.round == 0:
                # Every described client derived the initial adapter from the spec's seed: nothing need be sent.
                state = replace(state, held=dict.fromkeys(roster.nodes, state.shadow.digest()))
            if recorded.evaluated < state.round and self._evaluation_due(state.round):
                state = self._evaluate(state, roster)
            while state.round < plan.rounds:
                state = self._round(state, roster, recorded)
                if self._evaluation_due(state.round):
                    state = self._evaluate(state, roster)
        except (Interrupted, KeyboardInterrupt):
            self._ledger.append("interrupted", round=state.round)
            raise
        return state

    def _evaluation_due(self, round_number: int) -> bool:
        return round_number % self._plan.eval_every == 0 or round_number == self._plan.rounds

    def _round(self, state: RunState, roster: Roster, recorded: _Recorded) -> RunState:
        started = time.perf_counter()
        number = state.round + 1
        cohort = sample_cohort(list(roster.nodes), self._plan.cohort_size, seed=self._plan.seed, round_number=number)
        self._ledger.append("round_started", round=number, cohort=list(cohort))
        expected = {name: self._expected(state, number, name, roster) for name in cohort}
        waiting = [name for name in cohort if not self._is_spooled(expected[name], recorded)]
        for answer in self._ask(state, roster, waiting, Purpose.TRAIN, number):
            if isinstance(answer.reply, UpdateReply):
                self._receive(expected[answer.client], answer.reply.update, answer)
                state = note_held(state, answer.client, state.shadow.digest())
            else:
                self._log_failure(number, answer)

        step, received = self._fold(state, number, expected.values())
        state, encoding = follow(advance(state, step), self._spec, self._base, self._codec)
        finished: dict[str, Json] = {
            "round": number,
            "adapter": state.shadow.digest().hex(),
            "rule": self._rule.name,
            "received": received,
            "refused": len(cohort) - received,
            "update_norm": norm(step),
            "broadcast_distortion": encoding.distortion,
            "broadcast_codec_s": round(encoding.codec_s, 4),
            "wall_s": round(time.perf_counter() - started, 3),
        }
        state = replace(state, finished=finished)
        save_checkpoint(self._directory.checkpoints, state)
        self._conclude(state)
        return state

    def _conclude(self, state: RunState) -> None:
        """What is left of a round once its checkpoint is whole."""
        self._publish(state)
        self._directory.clear_updates()
        self._ledger.append("round_finished", **state.finished)

    def _is_spooled(self, expected: Expected, recorded: _Recorded) -> bool:
        """Whether an earlier stretch of the run stored a usable update; the ledger gets what it lacks of it."""
        update = self._directory.load_update(expected.round, expected.client)
        if update is None:
            return False
        try:
            opened = open_update(update, expected)
        except UpdateRefused:
            return False
        if (expected.round, expected.client) not in recorded.received:
            self._log_update(opened, uplink_bytes=len(encode_reply(UpdateReply(update))))
        return True

    def _fold(self, state: RunState, number: int, cohort: Collection[Expected]) -> tuple[AdapterState, int]:
        accumulator = self._rule.begin(state.shadow)
        received = 0
        for expected in cohort:
            update = self._directory.load_update(number, expected.client)
            if update is None:
                continue
            try:
                opened = open_update(update, expected)
            except UpdateRefused:
                # What was stored before and could not be used, from a client that was asked again in vain.
                continue
            accumulator.add(opened.delta, float(opened.header.examples))
            received += 1
        if not received:
            raise PeerError(f"round {number} got no usable update from its {len(cohort)} clients, expected at least 1")
        return accumulator.finish(), received

    def _evaluate(self, state: RunState, roster: Roster) -> RunState:
        losses: dict[str, ClientLoss] = {}
        for answer in self._ask(state, roster, list(roster.nodes), Purpose.EVALUATE, state.round):
            reply = answer.reply
            if not isinstance(reply, Evaluation):
                self._log_failure(state.round, answer)
                continue
            try:
                check_evaluation(reply, roster.cards[answer.client], state.round)
            except UpdateRefused as refused:
                self._log_refusal(state.round, answer, refused.reason, str(refused))
                continue
            self._ledger.append(
                "reply_received",
                round=state.round,
                client=answer.client,
                purpose=Purpose.EVALUATE.value,
                uplink_bytes=answer.uplink_bytes,
            )
            state = note_held(state, answer.client, state.shadow.digest())
            losses[answer.client] = ClientLoss(reply.loss, reply.tokens, reply.examples, reply.correct)
        if not losses:
            raise PeerError(f"no client could evaluate round {state.round}, expected at least 1")
        self._ledger.append("evaluated", round=state.round, **mean_loss(losses))
        return state

    def _ask(
        self, state: RunState, roster: Roster, clients: Sequence[str], purpose: Purpose, number: int
    ) -> Iterator[Answer]:
        """Send each client its task and yield its answer; one that lost its adapter is sent the whole one, once."""
        broadcasts = Broadcasts(state, self._spec, self._base)
        held = {name: state.held.get(name, b"") for name in clients}
        for last_try in (False, True):
            tasks: dict[int, bytes] = {}
            names = {roster.nodes[name]: name for name in held}
            for name, digest in held.items():
                broadcast = broadcasts.leading_from(digest)
                tasks[roster.nodes[name]] = self._task(purpose, broadcast, name, number)
                cost = measure(broadcast, layout=self._spec.layout)
                self._ledger.append(
                    "broadcast",
                    round=number,
                    client=name,
                    purpose=purpose.value,
                    downlink_bytes=len(tasks[roster.nodes[name]]),
                    payload_bytes=cost.payload_bytes,
                    envelope_bytes=cost.envelope_bytes,
                    codec=cost.codec,
                    bits_per_parameter=cost.bits_per_parameter,
                )
            held = {}
            for node, raw in self._channel.exchange(tasks, purpose, str(number)):
                if node not in names:
                    continue  # was not asked, or has answered
                answer = _decode_answer(
                    names.pop(node), raw, max_bytes=REPLY_BYTES + max_update_bytes(self._spec.layout)
                )
                lost = isinstance(answer.reply, Refusal) and answer.reply.reason == RefusalReason.NEED_FULL
                if lost and not last_try:
                    self._log_failure(number, answer)
                    held[answer.client] = b""
                else:
                    yield answer
            if not held:
                return

    def _task(self, purpose: Purpose, broadcast: bytes, client: str, number: int) -> bytes:
        base = self._plan.settings
        if purpose is Purpose.EVALUATE:
            return encode_task(EvaluateTask(replace(base, round=number), broadcast))
        settings = replace(
            base,
            round=number,
            seed=client_seed(self._plan.seed, number, client),
            done_steps=(number - 1) * base.local_steps,
        )
        return encode_task(TrainTask(settings, broadcast))

    def _receive(self, expected: Expected, update: bytes, answer: Answer) -> None:
        try:
            opened = open_update(update, expected)
        except UpdateRefused as refused:
            self._log_refusal(expected.round, answer, refused.reason, str(refused))
            return
        self._directory.store_update(expected.round, expected.client, update)
        self._log_update(opened, uplink_bytes=answer.uplink_bytes)

    def _log_update(self, opened: Opened, *, uplink_bytes: int) -> None:
        metrics = opened.header.metrics
        self._ledger.append(
            "update_received",
            round=opened.header.round,
            client=opened.header.client,
            uplink_bytes=uplink_bytes,
            payload_bytes=opened.encoding.payload_bytes,
            envelope_bytes=opened.encoding.envelope_bytes,
            codec=opened.encoding.codec,
            bits_per_parameter=opened.encoding.bits_per_parameter,
            distortion=metrics.get("distortion"),
            codec_s=round(metrics.get("codec_s", 0.0) + opened.encoding.codec_s, 4),
            examples=opened.header.examples,
            tokens=int(metrics.get("train_tokens", 0)),
            train_loss=metrics.get("train_loss"),
            train_s=metrics.get("train_s"),
            digest=opened.delta.digest().hex(),
        )

    def _expected(self, state: RunState, number: int, client: str, roster: Roster) -> Expected:
        return Expected(
            run_id=state.run_id,
            round=number,
            client=client,
            base_fingerprint=self._base,
            spec_digest=self._spec.digest,
            received=state.shadow,
            examples=roster.cards[client].train_examples,
        )

    def _log_failure(self, number: int, answer: Answer) -> None:
        reply = answer.reply
        if isinstance(reply, Refusal):
            self._log_refusal(number, answer, reply.reason.name.lower().replace("_", "-"), reply.detail)
        elif isinstance(reply, str):
            self._log_refusal(number, answer, "no-answer", reply)
        else:
            self._log_refusal(number, answer, "malformed", f"{type(reply).__name__} is not an answer to this task")

    def _log_refusal(self, number: int, answer: Answer, reason: str, detail: str) -> None:
        self._ledger.append(
            "update_refused",
            round=number,
            client=answer.client,
            reason=reason,
            detail=detail,
            uplink_bytes=answer.uplink_bytes,
        )


def _decode_answer(client: str, raw: bytes | str, *, max_bytes: int) -> Answer:
    if isinstance(raw, str):
        return Answer(client, raw, 0)
    try:
        return Answer(client, decode_reply(raw, max_bytes=max_bytes), len(raw))
    except PeerError as error:
        return Answer(client, Refusal(client, RefusalReason.MALFORMED, str(error)), len(raw))


@dataclass(frozen=True)
class _Recorded:
    """What the ledger of a run that is gone on with holds already.

    Attributes:
        finished: the last round that it calls finished.
        evaluated: the last round that it has losses of; -1 for none.
        received: rounds and clients of the updates that it has.
    """

    finished: int
    evaluated: int
    received: frozenset[tuple[int, str]]

    @classmethod
    def of(cls, events: Sequence[Event]) -> _Recorded:
        def rounds(kind: str) -> list[int]:
            return [cast("int", event["round"]) for event in events if event["event"] == kind]

        return cls(
            finished=max(rounds("round_finished"), default=0),
            evaluated=max(rounds("evaluated"), default=-1),
            received=frozenset(
                (cast("int", event["round"]), cast("str", event["client"]))
                for event in events
                if event["event"] == "update_received"
            ),
        )
