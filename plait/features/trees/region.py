"""A region: towards the server above it a client, and towards its own clients the server.

A task comes in, goes out to every client with the broadcast that each needs, and the answers go up as one: of updates
their exact sum (`plait.adapters.partial_sum`), of losses their mean, of descriptions their sum. Broadcasts are passed
down as they are, and tasks are those that the clients would get from the server itself, so a client cannot tell by them
that there is a region, and computes the same. Single updates stay here.

A region has no rounds of its own: while the server above is away it finishes what it was asked and waits, for what it
trained beyond would start from an adapter that no one else has. Later tasks bring it, and its clients, up to date.
Every update is on disk before it counts, and the sum before it is sent: a killed region continues to the same sum.
Knows no socket, and of the server above nothing but its tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from plait.abandon import Abandoned
from plait.aggregation import Rule
from plait.aggregation.server_optimizer import ServerOptimizer
from plait.data.histogram import OTHER
from plait.errors import BaseMismatchError, DiskFullError, PeerError, PlaitError
from plait.features.trees.events import RegionSummed
from plait.features.trees.region_sum import Adding, RegionSum
from plait.files import read_if_there, write_atomically
from plait.rounds import events
from plait.rounds.answer_log import AnswerLog
from plait.rounds.broadcasts import take_step
from plait.rounds.channel import Channel, NoAnswer, Purpose
from plait.rounds.checkpoint import checkpoints_in, save_checkpoint
from plait.rounds.dispatch import Answer, doubt
from plait.rounds.evaluating import Evaluating
from plait.rounds.holdings import NeedFullError
from plait.rounds.intake import Intake
from plait.rounds.ledger import Ledger, read_events
from plait.rounds.local_model import Trained, TrainJob
from plait.rounds.members import stated
from plait.rounds.norm_bound import remembered
from plait.rounds.participant import reason_of
from plait.rounds.reason import Reason
from plait.rounds.recorded import Recorded
from plait.rounds.roster import Roster
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import Held, RunState, Track, initial_state, note_held
from plait.rounds.saved_checkpoint import load_checkpoint
from plait.rounds.spool import Spool, Stored
from plait.rounds.task_settings import TaskSettings
from plait.rounds.tasks import Tasks
from plait.rounds.terms import Terms
from plait.rounds.tracks import Ranks
from plait.rounds.validate import LARGEST_FIGURE
from plait.wire.bounds import MAX_COUNT, MAX_HISTOGRAM, MAX_HISTOGRAM_BYTES
from plait.wire.envelope import CLIENTS, EPSILON, Direction, Header, Received, encode_sum, read_envelope, seal, unpack
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    EvaluateTask,
    Evaluation,
    Refusal,
    TrainTask,
    UpdateReply,
    decode_task,
    encode_reply,
)
from plait.wire.settings import digest_of
from plait.wire.signature import with_signature

MAX_TASK_BYTES = 1 << 31
"""Larger tasks are refused unread where no policy says less."""


@dataclass(eq=False, kw_only=True)
class Region:
    """One region of one run.

    Attributes:
        plan: of this level: `clients` are those of the region.
        adder: what adds up the updates of its spool.
        sign: makes the signature under its sums; without it they are not signed.
        refusal: why the newest task was refused; empty if it was not.
    """

    name: str
    channel: Channel
    directory: RunDirectory
    ledger: Ledger
    plan: RunPlan
    ranks: Ranks
    base_fingerprint: bytes
    rule: Rule
    optimizer: ServerOptimizer
    terms: Terms
    adder: Callable[[Spool], Adding] = RegionSum
    sign: Callable[[bytes], bytes] | None = None
    max_task_bytes: int = MAX_TASK_BYTES

    def __post_init__(self) -> None:
        plan = self.plan
        self.refusal = ""
        self._log = AnswerLog(self.channel, self.ledger)
        self._spool = plan.spool(
            self.directory,
            self._log.misfit,
            ranks=self.ranks,
            rule=self.rule,
            base_fingerprint=self.base_fingerprint,
        )
        self._sum = self.adder(self._spool)
        self._intake = Intake(self._spool, self._sum.check, self.directory, self._log, plan.settings)
        self._settings = TaskSettings(plan, self.rule, new_factors=self._spool.new_factors)
        self._tasks = Tasks(
            channel=self.channel,
            ledger=self.ledger,
            ranks=self.ranks,
            base_fingerprint=self.base_fingerprint,
            settings=self._settings,
            patience=plan.patience,
            deadline_s=plan.deadline_s,
        )
        self._answer = self.directory.path / "answer.envelope"
        self._recorded = Recorded.of(read_events(self.directory.ledger))
        self._log.recall(self._recorded)
        self._state: RunState | None = None
        self._roster: Roster | None = None

    def close(self) -> None:
        """End it: no client is waited for any more."""
        if self._roster is not None:
            self._roster.__exit__(None, None, None)
            self._roster = None
        self.ledger.close()

    def begin(self, task_bytes: bytes) -> bytes:
        """The answer to one task; a region has no training of its own to do between beginning and end."""
        return self.answer(task_bytes)

    def answer(self, task_bytes: bytes) -> bytes:
        """Do one task; an invalid one is answered by a refusal with a reason code.

        Raises:
            Abandoned: the result is no longer needed.
            DiskFullError: this machine's disk is full.
        """
        self.refusal = ""
        try:
            return self._work(task_bytes)
        except (Abandoned, DiskFullError):
            raise
        except PlaitError as error:
            self.refusal = str(error)
            return encode_reply(Refusal(self.name, reason_of(error), self.refusal))

    def finish(self, job: TrainJob, trained: Trained | PlaitError) -> bytes:
        """Never: a region trains nothing itself."""
        del job, trained
        raise ValueError(f"'{self.name}' was given a job of training")

    def _work(self, task_bytes: bytes) -> bytes:
        text = self._settings.to_describe().text
        digest = digest_of(text)
        task = decode_task(
            task_bytes, max_bytes=self.max_task_bytes, held=lambda asked: text if asked == digest else ""
        )
        if not isinstance(task, DescribeTask | TrainTask | EvaluateTask):
            raise PeerError(f"{task.what} is asked for, expected none: a region sends sums itself")
        self.terms.check_task(task)
        if isinstance(task, DescribeTask):
            return encode_reply(self._described())
        if task.base:
            raise PeerError("the base has moved, expected it to stay with a linear rule")
        broadcast = read_envelope(task.broadcast, max_bytes=len(task.broadcast))
        self.terms.check_header(broadcast.header, task)
        roster = self._gathered()
        state = self._caught_up(broadcast, task.broadcast, roster)
        if isinstance(task, EvaluateTask):
            return encode_reply(self._evaluated(state, roster))
        return encode_reply(UpdateReply(self._summed(state, roster, task.settings.round)))

    def _described(self) -> ClientCard:
        roster = self._gathered()
        cards = [roster.cards[client] for client in self._members(roster)]
        return ClientCard(
            client=self.name,
            base_fingerprint=self.base_fingerprint,
            spec_digest=self.ranks.master.spec.digest,
            train_examples=sum(card.train_examples for card in cards),
            train_tokens=sum(card.train_tokens for card in cards),
            held_out_examples=sum(card.held_out_examples for card in cards),
            held_out_tokens=sum(card.held_out_tokens for card in cards),
            histogram=merged([card.histogram for card in cards]),
            cut_examples=min(sum(card.cut_examples for card in cards), MAX_COUNT),
            left_out_examples=min(sum(card.left_out_examples for card in cards), MAX_COUNT),
            clients=sum(card.clients or 1 for card in cards),
            members=stated({card.client: card for card in cards}),
        )

    def _gathered(self) -> Roster:
        """The clients; waits for the first ones, and later for missing ones as long as the plan's patience says."""
        begun = self._roster is not None
        if self._roster is None:
            self._roster = Roster(
                self.channel,
                self.ledger,
                self._settings.to_describe(),
                self.ranks,
                self.base_fingerprint,
                patience=self.plan.patience,
                region_clients=self.plan.region_clients,
            )
            self._roster.__enter__()
        begun = begun or bool(checkpoints_in(self.directory.checkpoints))
        self._roster.gather(self.plan.clients, enough=self.plan.quorum if begun or not self._waits else None)
        return self._roster

    def _members(self, roster: Roster, stored: Collection[str] = ()) -> list[str]:
        """The clients that count: of those present, no more than the plan has; those in `stored` first."""
        others = sorted(roster.nodes.keys() - set(stored))
        return sorted([*stored, *others][: self.plan.clients])

    @property
    def _waits(self) -> bool:
        return self.channel.open_ended

    def _caught_up(self, broadcast: Received, data: bytes, roster: Roster) -> RunState:
        """The state that the server above means, from the one held and its broadcast."""
        header = broadcast.header
        if header.direction != Direction.BROADCAST:
            raise PeerError("envelope is an update, expected a broadcast")
        if header.base_fingerprint != self.base_fingerprint:
            raise BaseMismatchError(
                f"base of the broadcast is {header.base_fingerprint.hex()[:16]}, expected "
                f"{self.base_fingerprint.hex()[:16]}"
            )
        state = self._held(header.run_id, roster)
        held, opened = state.shadow, unpack(broadcast, layout=self.ranks.master.spec.layout)
        digest, track, initial = held.digest(), state.tracks[0], self.ranks.master.initial
        if not header.relative_to:
            shadow, track = opened.delta, Track(opened.delta)
        elif digest == header.result_digest:
            shadow = held
        elif header.relative_to in (digest, initial.digest()):
            origin = held if digest == header.relative_to else initial
            shadow = take_step(origin, opened.delta, opened.encoding.codec)
            track = Track(shadow, header.relative_to, data)
        else:
            raise NeedFullError(f"adapter {header.relative_to.hex()[:16]} is not held here")
        if shadow.digest() != header.result_digest:
            raise NeedFullError("the adapter after the broadcast is not the one that the server means")
        if digest == header.result_digest:
            track = state.tracks[0]
        self._state = replace(state, round=header.round, adapter=shadow, tracks=(track,))
        return self._state

    def _held(self, run_id: bytes, roster: Roster) -> RunState:
        """What this region holds of a run: in memory, on disk, or nothing but its beginning."""
        state = self._state
        if state is None and checkpoints_in(self.directory.checkpoints):
            state = load_checkpoint(self.directory.checkpoints, self.ranks)
        if state is None or state.run_id != run_id:
            # Every described client derived the initial adapter from the spec's seed.
            state = initial_state(run_id, self.ranks)
            state = replace(state, held=dict.fromkeys(roster.nodes, Held(state.shadow.digest())))
        return state

    def _summed(self, state: RunState, roster: Roster, number: int) -> bytes:
        """The envelope with the sum of the clients' updates; the same if it is asked for again."""
        if (answer := self._kept_answer(state, number)) is not None:
            return answer
        stored = self._collected(state, roster, number)
        state = self._state or state
        summed = self._sum.of(state, number, stored)
        part, folded = summed.part, summed.clients
        encoded = encode_sum(part, self.ranks.master.spec.layout)
        header = Header(
            direction=Direction.UPDATE,
            run_id=state.run_id,
            round=number,
            client=self.name,
            base_fingerprint=self.base_fingerprint,
            spec_digest=self.ranks.master.spec.digest,
            relative_to=state.shadow.digest(),
            examples=sum(stored[client].examples for client in folded),
            metrics=self._figures(number, folded, stored),
        )
        update = seal(header, encoded).data
        answer = with_signature(update, self.sign) if self.sign else update
        if self.terms.policy:
            self.terms.policy.check_upload(len(answer))
        said = RegionSummed(round=number, clients=int(header.metrics[CLIENTS]), received=len(folded))
        if self._sum.tells_figures:
            # Digest and size of a sum that has no noise yet would tell of it.
            figures = {"weight": part.weight, "digest": encoded.delta.digest().hex(), "uplink_bytes": len(answer)}
            said = said.model_copy(update=figures)
        # Before the sum is on disk, so that none is sent that is not on record. A kill in between records it twice.
        self.ledger.append(said)
        write_atomically(self._answer, answer)
        self._state = replace(state, round=number, norms=remembered(state.norms, summed.norms, summed.limits))
        save_checkpoint(self.directory.checkpoints, self._state, self.ranks)
        if not self.plan.keep_updates:
            self.directory.clear_updates()
        return answer

    def _kept_answer(self, state: RunState, number: int) -> bytes | None:
        answer = read_if_there(self._answer)
        if answer is None:
            return None
        header = read_envelope(answer, max_bytes=len(answer)).header
        is_same = (header.run_id, header.round, header.relative_to) == (state.run_id, number, state.shadow.digest())
        return answer if is_same else None

    def _figures(self, number: int, folded: Sequence[str], stored: Mapping[str, Stored]) -> dict[str, float]:
        """What the sum says of the training behind it; means are weighted by tokens."""
        of_clients = self._log.figures(number)
        figures = {CLIENTS: float(sum(stored[client].clients or 1 for client in folded))}
        if self.plan.settings.records_are_private:
            # The most of any record, of all clients that took part so far: it never falls.
            return figures | {EPSILON: max(self._log.epsilons.values())}
        if not self._sum.tells_figures:
            # No noise covers what was measured in training.
            return figures
        told = [of_clients[client] for client in folded if client in of_clients]
        tokens = sum(each.tokens for each in told)
        if tokens:
            figures["train_tokens"] = min(float(tokens), LARGEST_FIGURE)
            for name in ("train_loss", "first_loss", "learning_rate", "shortened", "reward"):
                values = [(getattr(each, name), each.tokens) for each in told]
                if all(value is not None for value, _ in values):
                    figures[name] = sum(value * count for value, count in values) / tokens
            times = [each.train_s for each in told if each.train_s is not None]
            if times:
                figures["train_s"] = max(times)
            refused = [each.refused_completions for each in told if each.refused_completions is not None]
            if refused:
                figures["refused_completions"] = min(float(sum(refused)), LARGEST_FIGURE)
        return figures

    def _collected(self, state: RunState, roster: Roster, number: int) -> dict[str, Stored]:
        """The clients' updates; those that an earlier part of the run has stored are not asked for again."""
        known, stored = self._log.figures(number), dict[str, Stored]()
        for client in sorted({*self._recorded.clients, *roster.nodes}):
            is_recorded = client in known
            if found := self._intake.recover(state, number, client, is_recorded=is_recorded):
                stored[client] = found
        count, attempts = 0, self.plan.attempts if self._waits else 1
        for attempt in range(1, attempts + 1):
            if attempt > 1:
                roster = self._gathered()
            self._ask(roster, number, stored)
            count = len(self._spool.check_norms(state, stored).accepted)
            if count >= self.plan.quorum:
                return stored
            self.ledger.append(events.RoundMissed(round=number, attempt=attempt, received=count))
        raise PlaitError(
            f"round {number} got {count} usable updates from its {self.plan.clients} clients, expected "
            f"at least {self.plan.quorum}"
        )

    def _ask(self, roster: Roster, number: int, stored: dict[str, Stored]) -> None:
        """Ask every client whose update is not there; `stored` gets those that come."""
        state = self._state
        if state is None:
            raise ValueError("nothing was caught up with")
        cohort = tuple(self._members(roster, stored))
        self._log.tell(events.RoundStarted(round=number, cohort=cohort))
        deadline = self._tasks.deadline()
        with self._tasks.dispatch(state, roster, Purpose.TRAIN, number) as dispatch:
            for client in cohort:
                if client not in stored:
                    dispatch.ask(client)
            while answer := dispatch.next_answer(deadline):
                client = answer.client
                if isinstance(answer.reply, UpdateReply):
                    expected = self._intake.expected(state, number, client, roster)
                    taken = self._intake.receive(state, expected, 0, answer.reply.update, answer)
                    if taken is not None:
                        stored[client] = taken
                    self._state = note_held(self._state or state, {client: state.held_on(0)})
                else:
                    self._log.failure(number, answer)
                if client not in stored:
                    doubt(roster, answer)
            late = sorted(dispatch.waiting)
        for client in late:
            self._log.failure(number, Answer(client, NoAnswer("no update before the deadline"), 0), reason=Reason.LATE)

    def _evaluated(self, state: RunState, roster: Roster) -> Evaluation:
        deadline = self._tasks.deadline()
        dispatch = self._tasks.dispatch(state, roster, Purpose.EVALUATE, state.round)
        with Evaluating(state, roster, dispatch, self._log, self._members(roster)) as evaluating:
            while answer := evaluating.dispatch.next_answer(deadline):
                if evaluating.take(answer):
                    held = {answer.client: evaluating.held[answer.client]}
                    self._state = note_held(self._state or state, held)
        as_one = evaluating.as_one(self.name)
        if as_one is None:
            raise PlaitError(f"no client could evaluate round {state.round}, expected at least 1")
        return as_one


def merged(histograms: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """One histogram of several, within the bounds of one: the most frequent names, and the rest under ``(other)``."""
    counts = Counter[str]()
    for histogram in histograms:
        counts.update(histogram)
    rest = counts.pop(OTHER, 0)
    kept, room = dict[str, int](), MAX_HISTOGRAM_BYTES - len(OTHER)
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        size = len(name.encode())
        if len(kept) < MAX_HISTOGRAM - 1 and size <= room:
            kept[name] = min(count, MAX_COUNT)
            room -= size
        else:
            rest += count
    return kept | {OTHER: min(rest, MAX_COUNT)} if rest else kept
