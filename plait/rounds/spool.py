"""The spool of a run: what becomes of an answer, what its stored updates are, and which of them count for how much.

An update is checked, stored before anything else happens to it, recorded, and read again when its round is folded. How
large it may be is checked only then, against all others of its round. Knows no round loop and no fold.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

import numpy as np

from plait.adapters import AdapterState
from plait.aggregation import ANY_RANK, BOTH_SIDES, Contribution, Geometry, Rule, slices_of
from plait.aggregation.geometry import size_of
from plait.errors import MachineError, PeerError
from plait.ledger import events
from plait.ledger.events import Reason
from plait.ledger.ledger import Ledger
from plait.ledger.run_view import RunView
from plait.rounds.channel import Channel, NoAnswer
from plait.rounds.dispatch import RoundAnswer
from plait.rounds.roster import RunRoster
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import Ranks, RunState
from plait.rounds.validate import (
    Expected,
    NormPolicy,
    Norms,
    RefusedUpdateError,
    beyond,
    bounded,
    check_update,
    clipped,
    measure,
    open_update,
)
from plait.system.machine import cores
from plait.wire.envelope import EPSILON, Opened, read_envelope
from plait.wire.messages import Refusal, UpdateReply, encode_reply

if TYPE_CHECKING:
    from plait.rounds.paces import ClientSpeeds
    from plait.rounds.run_plan import RunPlan


_MOST_BYTES = 1 << 28  # of all results that wait
T = TypeVar("T")


class SideBySide(Generic[T]):
    """As many threads as the machine has cores for; with one, work is done when its result is taken."""

    def __init__(self, each_bytes: int) -> None:
        self._threads = min(cores(), _MOST_BYTES // max(1, each_bytes) - 1)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="update") if self._threads > 1 else None
        self._given: deque[Callable[[], T]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what was not taken."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        """Results that are still to be taken."""
        return len(self._given)

    @property
    def is_full(self) -> bool:
        """Whether to take a result before submitting more."""
        return len(self._given) > (self._threads if self._pool else 0)

    def give(self, work: Callable[[], T]) -> None:
        """Begin some work as soon as a thread is free."""
        if self._pool:
            future: Future[T] = self._pool.submit(work)
            work = future.result
        self._given.append(work)

    def take(self) -> T:
        """The result of what was given first."""
        return self._given.popleft()()


def side_by_side(each: Iterable[Callable[[], T]], each_bytes: int) -> Iterator[T]:
    """The results of some work, in its order."""
    with SideBySide[T](each_bytes) as work:
        for one in each:
            work.give(one)
            if work.is_full:
                yield work.take()
        while len(work):
            yield work.take()


_RECORDED_METRICS = ("distortion", "train_loss", "first_loss", "learning_rate", "shortened", "reward", "train_s")

Refused: TypeAlias = Callable[[int, str, Reason, str], None]
"""Called with a stored update that does not count after all: its round, client, the reason and details."""


class Weighting(StrEnum):
    """How much a client's update counts in the mean."""

    EXAMPLES = "examples"
    """In proportion to the training examples that it has (FedAvg, arXiv 1602.05629), within a bound (validate.py)."""
    EQUAL = "equal"
    """As much as any other's: in a round each has trained on as much."""


@dataclass(frozen=True)
class NormCheck:
    """Which of a round's stored updates count: the clients of those that are folded, in name order, and the others."""

    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    limits: Norms


@dataclass(frozen=True)
class Arrival:
    """How an update came that is not folded in the round that it was trained in."""

    round: int
    fold: int
    weight: float

    @property
    def staleness(self) -> int:
        """Folds between the adapter that it began with and the one that it is folded into."""
        return self.fold - self.round


@dataclass(frozen=True)
class Stored:
    """A stored update, as it was read when it came in."""

    track: int
    examples: int
    norms: Norms
    steps: int = 0
    arrival: Arrival | None = None


@dataclass(eq=False, kw_only=True)
class Spool:
    """The stored updates of one run."""

    directory: RunDirectory
    refused: Refused
    ranks: Ranks
    rule: Rule
    base_fingerprint: bytes
    plan: "RunPlan"

    @property
    def new_factors(self) -> bool:
        """Whether factors are other ones in every round, so that nothing kept of the round before fits them."""
        return self.rule.new_factors(one_rank=len(self.ranks.adapters) == 1)

    def expected(self, state: RunState, number: int, client: str, track: int) -> Expected:
        """What an update's header must hold, apart from what only its client's card and key decide."""
        return Expected(
            run_id=state.run_id,
            round=number,
            client=client,
            base_fingerprint=self.base_fingerprint,
            spec_digest=self.ranks.adapters[track].spec.digest,
            received=state.tracks[track].shadow,
        )

    def open(
        self,
        state: RunState,
        number: int,
        client: str,
        update: bytes,
        *,
        steps: int = 0,
        arrival: Arrival | None = None,
    ) -> tuple[Opened, Stored]:
        """A stored update of a client who may be away by now, so that the update itself must name its track."""
        received = read_envelope(update, max_bytes=len(update))
        digest = received.header.spec_digest
        track = next((track for track, adapter in enumerate(self.ranks.adapters) if adapter.spec.digest == digest), 0)
        opened = check_update(received, self.expected(state, number, client, track))
        return opened, self.stored(opened, state, track, steps=steps, arrival=arrival)

    def check(self, opened: Opened, expected: Expected, track: int) -> None:
        """Refuse what no rule could fold, or this one not in this round, before it is stored."""
        frozen = BOTH_SIDES - self.rule.trained(expected.round)
        contribution = self.contribution(opened, expected, track)
        try:
            contribution.check(self.ranks.master.geometry, ranks=ANY_RANK, frozen=frozen)
        except PeerError as error:
            raise RefusedUpdateError(Reason.UNFIT, str(error)) from error

    def stored(
        self, opened: Opened, state: RunState, track: int, *, steps: int = 0, arrival: Arrival | None = None
    ) -> Stored:
        """What is known of an update once it is stored; `steps` is what its client was asked for."""
        norms = measure(opened.delta, state.tracks[track].shadow, self.ranks.adapters[track].geometry)
        return Stored(track, opened.header.examples, norms, steps, arrival)

    def check_norms(self, state: RunState, stored: Mapping[str, Stored]) -> NormCheck:
        """Which stored updates count, by how large they are."""
        norms = {client: each.norms for client, each in sorted(stored.items())}
        limits = self.plan.norm_bound.limits(norms.values(), state.norms)
        if self.plan.norm_bound.policy is not NormPolicy.REJECT:
            return NormCheck(tuple(norms), {}, limits)
        refused = {client: why for client in norms if (why := beyond(norms[client], limits))}
        return NormCheck(tuple(client for client in norms if client not in refused), refused, limits)

    def counting(self, state: RunState, number: int, stored: Mapping[str, Stored]) -> NormCheck:
        """Which stored updates count (`check_norms`); records those that do not."""
        check = self.check_norms(state, stored)
        for client, why in check.refused.items():
            self.refused(number, client, Reason.NORM, why)
        return check

    def weights(self, clients: Sequence[str], stored: Mapping[str, Stored]) -> tuple[dict[str, float], frozenset[str]]:
        """The weights of a round's updates, 1 where none is given, and the clients whose weight was capped."""
        weights: dict[str, float] = {}
        capped: frozenset[str] = frozenset()
        if clients and self.plan.weighting is Weighting.EXAMPLES:
            weights = bounded({client: stored[client].examples for client in clients})
            capped = frozenset(client for client in clients if weights[client] < stored[client].examples)
        for client in clients:
            if arrival := stored[client].arrival:
                weights[client] = weights.get(client, 1.0) * arrival.weight
        return weights, capped

    def contributions(
        self,
        state: RunState,
        number: int,
        check: NormCheck,
        weight_of: Mapping[str, float],
        stored: Mapping[str, Stored],
        factors: Mapping[str, float],
    ) -> Iterator[Contribution]:
        """What the accepted updates contribute, in client order; the next ones are decoded meanwhile."""

        def decoded(client: str) -> Contribution:
            arrival, track = stored[client].arrival, stored[client].track
            asked = arrival.round if arrival else number
            expected = self.expected(state.at(asked - 1), asked, client, track)
            opened = open_update(self.load(asked, client), expected)
            contribution = self.contribution(opened, expected, track)
            delta = contribution.delta
            if (factor := factors.get(client, 1.0)) != 1.0:
                delta = AdapterState(delta.layout, delta.flat * np.float32(factor))
            if self.plan.norm_bound.policy is NormPolicy.CLIP:
                delta = clipped(delta, contribution.received, contribution.geometry, check.limits)
            return replace(contribution, delta=delta, weight=weight_of.get(client, 1.0))

        return side_by_side((partial(decoded, client) for client in check.accepted), self.ranks.opened_bytes)

    def sent(self, number: int) -> tuple[slice, ...]:
        """The parts of a delta that clients send in a round; noise anywhere else would change what stays as it is."""
        geometry = self.ranks.master.geometry
        sides = self.rule.trained(number) - {self.rule.personal}
        return slices_of(geometry, sides)

    def load(self, number: int, client: str) -> bytes:
        """A stored update."""
        update = self.directory.load_update(number, client)
        if update is None:
            raise MachineError(f"the stored update of {client!r} in round {number} was deleted during the run")
        return update

    def contribution(self, opened: Opened, expected: Expected, track: int) -> Contribution:
        """What an update contributes, at a weight of 1."""
        metrics = opened.header.metrics
        first_loss = metrics.get("first_loss", 0.0)
        return Contribution(
            expected.client,
            expected.received,
            opened.delta,
            1.0,
            self.ranks.adapters[track].geometry,
            opened.header.examples,
            metrics.get("train_loss", math.nan),
            metrics.get("slope", math.nan) / first_loss if first_loss > 0 else math.nan,
        )


def largest_update(rule: Rule, geometry: Geometry) -> int:
    """The most numbers that a client sends in a round."""
    cycle = range(1, 1 + max(1, len(rule.frozen)))
    parts = (slices_of(geometry, rule.trained(number) - {rule.personal}) for number in cycle)
    return max(map(size_of, parts))


@dataclass(eq=False)
class AnswerLog:
    """The record of one run's answers.

    Attributes:
        last: the newest refusal in words, for the error of a round that failed.
    """

    channel: Channel
    ledger: Ledger
    misfits: set[tuple[int, str, str]] = field(default_factory=set[tuple[int, str, str]])
    epsilons: dict[str, float] = field(default_factory=dict[str, float])  # what records have cost, by client
    paces: "ClientSpeeds | None" = None
    last: str = ""

    def recall(self, recorded: RunView) -> None:
        """Restore what an earlier process has recorded."""
        self.misfits.update((event.round, event.client, event.reason) for event in recorded.refusals)
        for event in recorded.updates.values():
            if event.epsilon is not None:
                self.epsilons[event.client] = event.epsilon

    def record(self, event: events.Event) -> None:
        """Record an event from which clients' paces follow."""
        self.ledger.append(event)
        self._measure(event)

    def expected_s(self, client: str, steps: int = 0) -> float | None:
        """How long a client's task is expected to take, from its measured speed; None if unknown."""
        return self.paces.expected_s(client, steps) if self.paces else None

    def _measure(self, event: events.Event) -> None:
        if self.paces:
            self.paces.take(event)

    def update(self, opened: Opened, stored: Stored, *, uplink_bytes: int, took_s: float | None = None) -> None:
        """Record an update that is stored; durably where the order of arrival decides what it is folded with."""
        metrics, arrival = opened.header.metrics, stored.arrival
        stated: dict[str, Any] = {name: metrics.get(name) for name in _RECORDED_METRICS}
        # Proof that the client's key signed this update, for when the update itself is gone.
        received = events.UpdateReceived(
            round=opened.header.round,
            client=opened.header.client,
            uplink_bytes=uplink_bytes,
            payload_bytes=opened.encoding.payload_bytes,
            envelope_bytes=opened.encoding.envelope_bytes,
            codec=opened.encoding.codec,
            bits_per_parameter=opened.encoding.bits_per_parameter,
            codec_s=round(metrics.get("codec_s", 0.0) + opened.encoding.codec_s, 4),
            examples=opened.header.examples,
            tokens=int(metrics.get("train_tokens", 0)),
            refused_completions=None if (refused := metrics.get("refused_completions")) is None else int(refused),
            took_s=took_s,
            digest=opened.delta.digest().hex(),
            norms={figure: norm for figure, norm in stored.norms.items() if norm},
            signed=opened.signed.hex() if opened.signature else None,
            signature=opened.signature.hex() if opened.signature else None,
            epsilon=metrics.get(EPSILON),
            **stated,
            fold=arrival and arrival.fold,
            staleness=arrival and arrival.staleness,
            weight=arrival and arrival.weight,
        )
        if received.epsilon is not None:
            self.epsilons[received.client] = received.epsilon
        (self.ledger.append if arrival else self.ledger.note)(received)
        self._measure(received)

    def failure(self, number: int, answer: RoundAnswer, *, reason: str = Reason.NO_ANSWER, stage: str = "") -> None:
        """Record an invalid answer to the task of round `number`."""
        reply = answer.reply
        if isinstance(reply, Refusal):
            # A client's own words stay out of the ledger of a masked run.
            why, detail = reply.code, "the client refused" if stage else reply.detail
        elif isinstance(reply, NoAnswer):
            why, detail = answer.given_up or reason, reply.detail
        else:
            why, detail = Reason.MALFORMED, f"{type(reply).__name__} is not an answer to this task"
        self.refusal(number, answer.client, why, detail, uplink_bytes=answer.uplink_bytes, stage=stage)

    def misfit(self, number: int, client: str, reason: Reason, detail: str) -> None:
        """Record a refusal during a fold, once: a round that was killed while folding is folded again."""
        if (number, client, reason.value) not in self.misfits:
            self.misfits.add((number, client, reason.value))
            self.refusal(number, client, reason, detail)

    def refusal(
        self, number: int, client: str, reason: str, detail: str, *, uplink_bytes: int = 0, stage: str = ""
    ) -> None:
        """Record an answer that does not count; at a `stage` its client drops out of a masked sum."""
        self.last = f"; client {client!r}: {detail}"
        refused = events.UpdateRefused(
            round=number, client=client, reason=str(reason), detail=detail, uplink_bytes=uplink_bytes, stage=stage
        )
        self.ledger.append(refused)

    def note_ended(self, number: int, roster: RunRoster) -> None:
        """Record what simulated devices did."""
        for event in self.channel.clock.ended(number, {node: client for client, node in roster.nodes.items()}):
            self.ledger.note(event)
            self._measure(event)


Checked: TypeAlias = "tuple[Opened, Stored] | RefusedUpdateError"
"""A usable update, or why it is not usable."""


@dataclass(eq=False)
class Intake:
    """Accepts the updates of one run; `steps` that clients were asked for, by round and client, where they differ."""

    spool: Spool
    log: AnswerLog
    steps: dict[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])

    def expected(self, state: RunState, number: int, client: str, roster: RunRoster) -> Expected:
        """What an update's header must hold."""
        client_of, settings = roster.clients[client], self.spool.plan.settings
        return replace(
            self.spool.expected(state, number, client, client_of.track),
            examples=client_of.card.train_examples,
            public_key=client_of.key,
            epsilon=settings.record_epsilon if settings.records_are_private else None,
        )

    def open(
        self, state: RunState, expected: Expected, track: int, update: bytes, *, arrival: Arrival | None = None
    ) -> Checked:
        """Check an update; changes nothing, so several threads may do so at once."""
        try:
            opened = open_update(update, expected)
            self.spool.check(opened, expected, track)
        except RefusedUpdateError as refused:
            return refused
        steps = self.steps.get((expected.round, expected.client), 0)
        return opened, self.spool.stored(opened, state, track, steps=steps, arrival=arrival)

    def commit_update(self, expected: Expected, update: bytes, answer: RoundAnswer, checked: Checked) -> Stored | None:
        """Accept an update: its bytes, then its record; or record why it is not usable.

        Killed before the bytes are whole, the client is asked again. Killed before the record, the run finds the bytes
        (`recover`) and completes the ledger. Only where the order of arrival decides the fold is the record durable at
        once; else a power cut may take it until the round ends, and `recover` gives it again.
        """
        if isinstance(checked, RefusedUpdateError):
            reason, uplink_bytes = checked.reason, answer.uplink_bytes
            self.log.refusal(expected.round, expected.client, reason, str(checked), uplink_bytes=uplink_bytes)
            return None
        opened, stored = checked
        self.spool.directory.store_update(expected.round, expected.client, update)
        took_s = None if self.log.channel.clock.is_virtual else round(answer.took_s, 3)
        self.log.update(opened, stored, uplink_bytes=answer.uplink_bytes, took_s=took_s)
        return stored

    def recover(
        self,
        state: RunState,
        number: int,
        client: str,
        *,
        is_recorded: bool,
        arrival: Arrival | None = None,
    ) -> Stored | None:
        """An update that an earlier part of the run has stored, if there is one; the ledger is completed."""
        update = self.spool.directory.load_update(number, client)
        if update is None:
            return None
        try:
            steps = self.steps.get((number, client), 0)
            opened, stored = self.spool.open(state, number, client, update, steps=steps, arrival=arrival)
        except PeerError:
            return None
        if not is_recorded:
            self.log.update(opened, stored, uplink_bytes=len(encode_reply(UpdateReply(update))))
        return stored
