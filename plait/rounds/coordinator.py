"""The server's side of a run: describe the clients, then broadcast, train, fold, checkpoint and evaluate by the round.

Works the same over every driver: it sees a `Channel`, a run directory, a rule and a codec. Spool, then fold: an update
is on disk before anything else happens to it, and the updates of a round are folded in client order once the round's
answers are in, so the result does not depend on who answered first. Knows no torch, no Flower and no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from plait.adapters import AdapterSpec, AdapterState, norm
from plait.aggregation import Rule
from plait.errors import Interrupted, PeerError
from plait.rounds.broadcasts import Broadcasts, follow
from plait.rounds.channel import Channel, Purpose
from plait.rounds.checkpoint import save_checkpoint
from plait.rounds.evaluation import ClientLoss, mean_loss
from plait.rounds.ledger import Ledger
from plait.rounds.roster import REPLY_BYTES, Roster, describe_clients
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState, advance, client_seed, note_held, sample_cohort
from plait.rounds.validate import Expected, UpdateRefused, max_update_bytes, open_update
from plait.wire.codec import Codec
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

    def run(self, state: RunState, *, evaluated: int = -1) -> RunState:
        """Finish the run.

        Args:
            state: where it stands.
            evaluated: the last round whose evaluation the ledger holds; -1 for none.

        Returns:
            The final state; checkpoints, ledger and published adapter are up to date after every round.

        Raises:
            PeerError: fewer clients than planned, or a round without a usable update.
            Interrupted: the user asked to stop.
            MachineError: the disk is full.
        """
        plan = self._plan
        try:
            roster = describe_clients(
                self._channel, self._ledger, plan.settings, self._spec, self._base, expected=plan.clients
            )
            if state.round == 0:
                # Every described client derived the initial adapter from the spec's seed: nothing need be sent.
                state = replace(state, held=dict.fromkeys(roster.nodes, state.shadow.digest()))
            if evaluated < state.round and self._evaluation_due(state.round):
                state = self._evaluate(state, roster)
            while state.round < plan.rounds:
                state = self._round(state, roster)
                if self._evaluation_due(state.round):
                    state = self._evaluate(state, roster)
        except (Interrupted, KeyboardInterrupt):
            self._ledger.append("interrupted", round=state.round)
            raise
        return state

    def _evaluation_due(self, round_number: int) -> bool:
        return round_number % self._plan.eval_every == 0 or round_number == self._plan.rounds

    def _round(self, state: RunState, roster: Roster) -> RunState:
        started = time.perf_counter()
        number = state.round + 1
        cohort = sample_cohort(list(roster.nodes), self._plan.cohort_size, seed=self._plan.seed, round_number=number)
        self._ledger.append("round_started", round=number, cohort=list(cohort))
        waiting = [name for name in cohort if self._directory.load_update(number, name) is None]
        for answer in self._ask(state, roster, waiting, Purpose.TRAIN, number):
            if isinstance(answer.reply, UpdateReply):
                self._receive(self._expected(state, number, answer.client, roster), answer.reply.update, answer)
                state = note_held(state, answer.client, state.shadow.digest())
            else:
                self._log_failure(number, answer)

        step, received = self._fold(state, number, cohort, roster)
        state, encoding = follow(advance(state, step), self._spec, self._base, self._codec)
        save_checkpoint(self._directory.checkpoints, state)
        self._publish(state)
        self._directory.clear_updates()
        self._ledger.append(
            "round_finished",
            round=number,
            adapter=state.shadow.digest().hex(),
            rule=self._rule.name,
            received=received,
            refused=len(cohort) - received,
            update_norm=norm(step),
            broadcast_distortion=encoding.distortion,
            broadcast_codec_s=round(encoding.codec_s, 4),
            wall_s=round(time.perf_counter() - started, 3),
        )
        return state

    def _fold(self, state: RunState, number: int, cohort: Sequence[str], roster: Roster) -> tuple[AdapterState, int]:
        accumulator = self._rule.begin(state.shadow)
        received = 0
        for name in cohort:
            update = self._directory.load_update(number, name)
            if update is None:
                continue
            opened = open_update(update, self._expected(state, number, name, roster))
            accumulator.add(opened.delta, float(opened.header.examples))
            received += 1
        if not received:
            raise PeerError(f"round {number} got no usable update from its {len(cohort)} clients, expected at least 1")
        return accumulator.finish(), received

    def _evaluate(self, state: RunState, roster: Roster) -> RunState:
        losses: dict[str, ClientLoss] = {}
        for answer in self._ask(state, roster, list(roster.nodes), Purpose.EVALUATE, state.round):
            reply = answer.reply
            if not isinstance(reply, Evaluation) or reply.client != answer.client or reply.round != state.round:
                self._log_failure(state.round, answer)
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
                self._ledger.append(
                    "broadcast",
                    round=number,
                    client=name,
                    purpose=purpose.value,
                    downlink_bytes=len(tasks[roster.nodes[name]]),
                    envelope_bytes=len(broadcast),
                )
            held = {}
            for node, raw in self._channel.exchange(tasks, purpose, str(number)):
                answer = _decode_answer(names[node], raw, max_bytes=REPLY_BYTES + max_update_bytes(self._spec.layout))
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
        metrics = opened.header.metrics
        self._ledger.append(
            "update_received",
            round=expected.round,
            client=expected.client,
            uplink_bytes=answer.uplink_bytes,
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
            relative_to=state.shadow.digest(),
            examples=roster.cards[client].train_examples,
            layout=self._spec.layout,
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
        return Answer(client, str(error), len(raw))
