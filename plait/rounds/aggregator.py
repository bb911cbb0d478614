"""From the stored updates of a round to the next state: decoded and folded one by one, in client order.

So memory does not grow with the cohort, and the result does not depend on who answered first. How large an update may
be is checked only here, once all are in, for the same reason. Knows no channel.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32, Json, norm
from plait.adapters.bottleneck import is_bottleneck
from plait.adapters.partial_sum import PartialSum
from plait.aggregation import (
    ANY_RANK,
    BOTH_SIDES,
    BottleneckObserver,
    Contribution,
    Diagnostics,
    Geometry,
    Observer,
    Outcome,
    RoundContext,
    Rule,
    ServerOptimizer,
    slices_of,
)
from plait.aggregation.exact_sum import ExactSum
from plait.aggregation.line_search import slope_of
from plait.errors import MachineError, PeerError
from plait.privacy.clipped_sum import ClippedSum, part_of, rounding_key, whole_numbers
from plait.privacy.mechanism import ClientPrivacy, PrivateMean
from plait.rounds import events
from plait.rounds.broadcasts import follow, move_base
from plait.rounds.buffer import Arrival, Buffer
from plait.rounds.events import RoundFinished
from plait.rounds.masked_rounds import MaskedRounds
from plait.rounds.masked_sum import Summed, sum_file
from plait.rounds.norm_bound import NormBound, NormPolicy, Norms, beyond, clipped, measure, remembered
from plait.rounds.private_rounds import PrivateRounds
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState, advance
from plait.rounds.step_budget import normalised
from plait.rounds.tracks import Ranks
from plait.rounds.validate import Expected, Reason, UpdateRefused, check_update, open_update
from plait.rounds.watch import Standing
from plait.rounds.weights import WEIGHT_RATIO, bounded
from plait.wire.codec import Codec
from plait.wire.envelope import CLIENTS, Opened, read_envelope

# Modules whose products are looked at each round, spread over the adapter: enough to tell, at a small part of the cost.
_MODULES_OBSERVED = 8
_OBSERVED = 1000  # modules of all clients together

Refused: TypeAlias = Callable[[int, str, Reason, str], None]
"""Told of a stored update that does not count after all: its round, client, the reason and details."""


class Weighting(StrEnum):
    """How much a client's update counts in the mean."""

    EXAMPLES = "examples"
    """In proportion to the training examples that it has (FedAvg, arXiv 1602.05629), within a bound (weights.py)."""
    EQUAL = "equal"
    """As much as any other's: in a round each has trained on as much."""


class TakesBack(StrEnum):
    """How far a step that made the adapter worse can be taken back."""

    HALF = "half"
    ALL = "all"
    """Factors are other ones in every round, and a mean of two pairs of them is neither."""
    NOTHING = "nothing"
    """The round's progress is in the base, which does not move back."""


@dataclass(frozen=True)
class NormCheck:
    """Which of a round's stored updates count.

    Attributes:
        accepted: the clients whose updates are folded, in name order.
        refused: the others, and why.
        limits: the largest that a figure may be.
    """

    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    limits: Norms


@dataclass(frozen=True)
class Stored:
    """A stored update, as it was read when it came in.

    Attributes:
        examples: that it stands for, as its header says.
        steps: that the client was asked for; 0 if all were asked for as many.
        weight: of a region's sum; None for a client.
        clients: of how many it is the sum; 0 for a client.
        arrival: in an asynchronous run, how it came.
    """

    track: int
    examples: int
    norms: Norms
    steps: int = 0
    arrival: Arrival | None = None
    weight: float | None = None
    clients: int = 0

    def began(self, number: int) -> int:
        """Rounds that the adapter had behind it with which its client began, if it is folded in round `number`."""
        return (self.arrival.round if self.arrival else number) - 1


@dataclass(eq=False, kw_only=True)
class Aggregator:
    """Rule, server optimizer and codec of one run, over its spool.

    Args:
        directory: of the run, with the stored updates.
        refused: called for every stored update that does not count after all.
        ranks: the adapters that clients have.
        optimizer: makes a step of what the rule gives.
        base_fingerprint: of the base, 32 bytes.
        norm_bound: how large an update may be.
        weight_ratio: no update counts more than so many times the median.
        private: the noise of the rounds, for a run with differential privacy.
        clipping: of a region of such a run, which clips updates and adds no noise.
        masked: the grids of the rounds, for a run with secure aggregation.
        buffer: of an asynchronous run.
        region_clients: whose updates one update may be the sum of; 0 where none is.
    """

    directory: RunDirectory
    refused: Refused
    ranks: Ranks
    rule: Rule
    optimizer: ServerOptimizer
    base_fingerprint: bytes
    codec: Codec
    seed: int
    norm_bound: NormBound
    weighting: Weighting
    weight_ratio: float = WEIGHT_RATIO
    private: PrivateRounds | None = None
    clipping: ClientPrivacy | None = None
    masked: MaskedRounds | None = None
    buffer: Buffer | None = None
    region_clients: int = 0

    @property
    def new_factors(self) -> bool:
        """Whether factors are other ones in every round, so that nothing kept of the round before fits them."""
        return self.rule.new_factors(one_rank=len(self.ranks.adapters) == 1)

    def expected(self, state: RunState, number: int, client: str, track: int) -> Expected:
        """What an update of a client must say of itself, apart from what only its card and key can tell."""
        return Expected(
            run_id=state.run_id,
            round=number,
            client=client,
            base_fingerprint=self.base_fingerprint,
            spec_digest=self.ranks.adapters[track].spec.digest,
            received=state.tracks[track].shadow,
            clients=self.region_clients,
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
        """A stored update of a client who may be away by now, so that the update itself has to say its track.

        Raises:
            PeerError: it is not what was stored.
        """
        received = read_envelope(update, max_bytes=len(update))
        said = received.header.spec_digest
        track = next((track for track, adapter in enumerate(self.ranks.adapters) if adapter.spec.digest == said), 0)
        opened = check_update(received, self.expected(state, number, client, track))
        return opened, self.stored(opened, state, track, steps=steps, arrival=arrival)

    def check(self, opened: Opened, expected: Expected, track: int) -> None:
        """Refuse what no rule could fold, or this one not in this round, before it is stored.

        Raises:
            UpdateRefused: with the reason.
        """
        self._check_weight(opened)
        frozen = BOTH_SIDES - self.rule.trained(expected.round)
        contribution = self._contribution(opened, expected, track)
        try:
            contribution.check(self.ranks.master.geometry, ranks=ANY_RANK, frozen=frozen)
        except PeerError as error:
            raise UpdateRefused(Reason.UNFIT, str(error)) from error
        if opened.sum is not None and (privacy := self._clips):
            try:
                self._whole_numbers(opened, privacy, expected.round)
            except PeerError as error:
                raise UpdateRefused(Reason.NORM, str(error)) from error

    @property
    def _clips(self) -> ClientPrivacy | None:
        """What clients' updates are clipped to; None without differential privacy of clients."""
        return self.clipping or (self.private.privacy if self.private else None)

    def _whole_numbers(self, opened: Opened, privacy: ClientPrivacy, number: int) -> NDArray[np.int64]:
        """The sum of a region's clipped updates, of the numbers that clients send.

        Raises:
            PeerError: no clipped updates add up to it.
        """
        part, sent = opened.sum, self.sent(number)
        if part is None:
            raise PeerError("update is a client's own, expected the sum of a region")
        size = sum(each.stop - each.start for each in sent)
        cut = {place: np.concatenate([limb[each] for each in sent]) for place, limb in part.limbs.items()}
        clients = int(opened.header.metrics[CLIENTS])
        return whole_numbers(PartialSum(cut, part.weight), clients=clients, radius=privacy.grid(size).radius)

    def _check_weight(self, opened: Opened) -> None:
        """Refuse a sum that weighs more than its clients may, or less than any could."""
        if opened.sum is None:
            return
        clients, weight = opened.header.metrics[CLIENTS], opened.sum.weight
        # Every client has an example at least. Where two regions' median is the smaller one, a weight near zero would
        # bring the other's there too.
        most = clients if self.weighting is Weighting.EQUAL else float(opened.header.examples)
        if not clients <= weight <= most:
            raise UpdateRefused(Reason.WEIGHT, f"weight of the sum is {weight:g}, expected {clients:g} to {most:g}")

    def stored(
        self, opened: Opened, state: RunState, track: int, *, steps: int = 0, arrival: Arrival | None = None
    ) -> Stored:
        """What is to be known of an update once it is stored; `steps` is what its client was asked for."""
        norms = measure(opened.delta, state.tracks[track].shadow, self.ranks.adapters[track].geometry)
        stored = Stored(track, opened.header.examples, norms, steps, arrival)
        if opened.sum is None:
            return stored
        return replace(stored, weight=opened.sum.weight, clients=int(opened.header.metrics[CLIENTS]))

    def check_norms(self, state: RunState, stored: Mapping[str, Stored]) -> NormCheck:
        """Which stored updates count, by how large they are.

        Args:
            state: after the round before.
            stored: every stored update, by client.
        """
        norms = {client: each.norms for client, each in sorted(stored.items())}
        limits = self.norm_bound.limits(norms.values(), state.norms)
        if self.norm_bound.policy is not NormPolicy.REJECT:
            return NormCheck(tuple(norms), {}, limits)
        refused = {client: why for client in norms if (why := beyond(norms[client], limits))}
        return NormCheck(tuple(client for client in norms if client not in refused), refused, limits)

    def step(
        self, state: RunState, number: int, stored: Mapping[str, Stored], *, standing: Standing | None = None
    ) -> tuple[RunState, RoundFinished]:
        """What rule and server optimizer make of the stored updates.

        Args:
            state: after the round before.
            number: of the round.
            stored: every stored update, by client.
            standing: of the run, if steps that made the adapter worse are taken back and later ones shortened.

        Returns:
            (the state after the round, its event; the caller knows how many updates it lacked, and its time).

        Raises:
            BudgetSpentError: the noise of the round would exceed the run's epsilon.
            MachineError: a stored update is gone.
            PeerError: none of them counts.
        """
        context = RoundContext(
            round=number,
            master=state.shadow,
            geometry=self.ranks.master.geometry,
            initial=self.ranks.master.initial,
            seed=self.seed,
            cohort=self.ranks.cohort,
            memory=state.rule_memory,
        )
        check = self.check_norms(state, stored)
        for client, why in check.refused.items():
            self.refused(number, client, Reason.NORM, why)
        weights, capped_clients = self._weights(check.accepted, stored)
        diagnostics: Diagnostics | None = None
        clip_norm: float | None = None
        update_length: float | None = None
        if self.masked:
            outcome, folded, update_length, clip_norm = self._fold_masked(self.masked, state, context)
        elif self.private:
            outcome, clip_norm, folded = self._fold_private(self.private, state, context, check.accepted)
        else:
            steps = {client: stored[client].steps for client in check.accepted}
            factors = normalised(steps, weights) if all(steps.values()) else {}
            outcome, diagnostics, folded = self._fold(state, context, check, weights, stored, factors)
        if self.buffer:
            counted = [arrival.weight for client in folded if (arrival := stored[client].arrival)]
            moved = np.float32(self.buffer.moved(counted))
            outcome = replace(outcome, step=AdapterState(outcome.step.layout, outcome.step.flat * moved))
        if standing and standing.follows_steps_back(number):
            # Clients measured along a way that the server's step did not take.
            outcome = replace(outcome, slope=None)
        step, optimizer_memory = self.optimizer.adjust(outcome, state.optimizer_memory, context)
        scale = standing.scale if standing else 1.0
        if scale != 1 and self.takes_back is TakesBack.HALF:
            step = AdapterState(step.layout, step.flat * np.float32(scale))
        before = None if self.new_factors else state.adapter
        if self.buffer:
            state = self.buffer.kept(state, folded)
        state = replace(advance(state, step), rule_memory=outcome.memory, optimizer_memory=optimizer_memory)
        state = replace(state, clip_norm=clip_norm, update_length=update_length)
        if not self.private and not self.masked:
            sizes = [stored[client].norms for client in folded]
            state = replace(state, norms=remembered(state.norms, sizes, check.limits))
        capped = [client for client in folded if client in capped_clients]
        clips = self.norm_bound.policy is NormPolicy.CLIP
        cost = None
        if outcome.base is not None:
            state, cost = move_base(state, outcome.base, self.ranks, self.base_fingerprint, codec=self.codec)
        state, encoding = follow(state, self.ranks, self.base_fingerprint, codec=self.codec, before=before)
        return state, RoundFinished(
            round=number,
            rule=self.rule.name,
            received=len(folded),
            update_norm=norm(step),
            clipped=tuple(name for name in folded if beyond(stored[name].norms, check.limits)) if clips else None,
            weight_capped=tuple(capped) or None,
            figures=outcome.figures or None,
            diagnostics=events.Diagnostics(**asdict(diagnostics)) if diagnostics else None,
            base_distortion=cost and cost.distortion,
            adapter=state.shadow.digest().hex(),
            broadcast_distortion=encoding.distortion,
            broadcast_codec_s=round(encoding.codec_s, 4),
        )

    def sum_up(
        self, state: RunState, number: int, stored: Mapping[str, Stored]
    ) -> tuple[PartialSum, list[str], Sequence[Norms], Norms]:
        """The exact sum of the stored updates, for the server above this one.

        Args:
            state: after the round before.
            number: of the round.
            stored: every stored update, by client.

        Returns:
            (the sum, the clients in it, their norms, the largest that a norm may be).

        Raises:
            MachineError: a stored update is gone.
            PeerError: none of them counts.
        """
        check = self.check_norms(state, stored)
        for client, why in check.refused.items():
            self.refused(number, client, Reason.NORM, why)
        if not check.accepted:
            raise PeerError(f"none of the updates of round {number} counts")
        norms = [stored[client].norms for client in check.accepted]
        if self.clipping:
            return (
                self._sum_clipped(self.clipping, state, number, check.accepted),
                [*check.accepted],
                norms,
                check.limits,
            )
        weights, _ = self._weights(check.accepted, stored)
        total = ExactSum(self.ranks.master.geometry.layout.size)
        for contribution in self._contributions(state, number, check, weights, stored, {}):
            if contribution.sum is not None:
                total.join(contribution.sum)
            else:
                total.add(contribution.delta.flat, contribution.weight)
        return total.part(), list(check.accepted), norms, check.limits

    def _sum_clipped(self, privacy: ClientPrivacy, state: RunState, number: int, accepted: Sequence[str]) -> PartialSum:
        """The same of clipped updates, in whole numbers."""
        sent = self.sent(number)
        total, clients = ClippedSum(privacy, size=sum(part.stop - part.start for part in sent)), 0
        for client in accepted:
            update = self._load(number, client)
            opened = open_update(update, self.expected(state, number, client, 0))
            if opened.sum is not None:
                total.join(self._whole_numbers(opened, privacy, number))
                clients += int(opened.header.metrics[CLIENTS])
                continue
            digest = read_envelope(update, max_bytes=len(update)).payload_digest
            key = rounding_key(state.run_id, number, client, digest)
            total.add(np.concatenate([opened.delta.flat[part] for part in sent]), key=key)
            clients += 1
        numbers, summed, at = total.numbers(), np.zeros(self.ranks.master.spec.layout.size, np.float64), 0
        for part in sent:
            summed[part] = numbers[at : at + part.stop - part.start]
            at += part.stop - part.start
        return part_of(summed, clients)

    def _weights(self, clients: Sequence[str], stored: Mapping[str, Stored]) -> tuple[dict[str, float], frozenset[str]]:
        """What the updates of a round weigh, 1 where nothing is said, and the clients whose weight was cut.

        A region weighs what its sum does, which `check` has compared with its clients.
        """
        weights: dict[str, float] = {}
        capped: frozenset[str] = frozenset()
        if self.weighting is Weighting.EQUAL:
            weights = {client: weight for client in clients if (weight := stored[client].weight)}
        elif clients:
            each = {
                client: (stored[client].weight or stored[client].examples, stored[client].clients or 1)
                for client in clients
            }
            limited = bounded({client: weight / count for client, (weight, count) in each.items()}, self.weight_ratio)
            capped = frozenset(client for client, (weight, count) in each.items() if limited[client] < weight / count)
            weights = {
                client: limited[client] * count if client in capped else float(weight)
                for client, (weight, count) in each.items()
            }
        for client in clients:
            if arrival := stored[client].arrival:
                weights[client] = weights.get(client, 1.0) * arrival.weight
        return weights, capped

    @property
    def takes_back(self) -> TakesBack:
        """How far a step of this run can be taken back."""
        if self.rule.moves_base:
            return TakesBack.NOTHING
        return TakesBack.ALL if self.new_factors else TakesBack.HALF

    def take_back(self, state: RunState) -> tuple[RunState, dict[str, Json]]:
        """The state once the steps since the last accepted evaluation are taken back by half, or all of them.

        Clients hold the adapter that is taken back, so the next broadcast leads from it.

        Returns:
            (the state, fields for the ledger).

        Raises:
            MachineError: nothing is kept to go back to.
        """
        if state.accepted is None:
            raise MachineError("no adapter is kept that steps could be taken back to")
        wanted = state.accepted
        if self.takes_back is TakesBack.HALF:
            wanted = AdapterState(wanted.layout, (wanted.flat + state.adapter.flat) * np.float32(0.5))
        before = None if self.new_factors else state.adapter
        state, encoding = follow(
            replace(state, adapter=wanted), self.ranks, self.base_fingerprint, codec=self.codec, before=before
        )
        return state, {
            "adapter": state.shadow.digest().hex(),
            "taken_back": self.takes_back.value,
            "broadcast_distortion": encoding.distortion,
        }

    def _fold(
        self,
        state: RunState,
        context: RoundContext,
        check: NormCheck,
        weight_of: Mapping[str, float],
        stored: Mapping[str, Stored],
        factors: Mapping[str, float],
    ) -> tuple[Outcome, Diagnostics | None, list[str]]:
        accumulator = self.rule.begin(context)
        observer = self._observer(context, len(check.accepted))
        folded: list[str] = []
        squares = weights = 0.0
        slopes: list[tuple[float, float]] = []
        for contribution in self._contributions(state, context.round, check, weight_of, stored, factors):
            try:
                accumulator.add(contribution)
            except PeerError as error:
                self.refused(context.round, contribution.client, Reason.RULE, str(error))
                continue
            folded.append(contribution.client)
            squares += contribution.weight * norm(contribution.delta) ** 2
            weights += contribution.weight
            slopes.append((contribution.slope, contribution.weight))
            if observer:
                observer.add(contribution)
        if not folded:
            raise PeerError(f"none of the updates of round {context.round} counts for rule '{self.rule.name}'")
        outcome = replace(accumulator.finish(), client_square=squares / weights, slope=slope_of(slopes))
        return outcome, observer.finish(outcome) if observer else None, folded

    def _contributions(
        self,
        state: RunState,
        number: int,
        check: NormCheck,
        weight_of: Mapping[str, float],
        stored: Mapping[str, Stored],
        factors: Mapping[str, float],
    ) -> Iterator[Contribution]:
        """What the accepted updates contribute, decoded one by one."""
        for client in check.accepted:
            version, track = stored[client].began(number), stored[client].track
            expected = self.expected(state.at(version), version + 1, client, track)
            opened = open_update(self._load(version + 1, client), expected)
            contribution = self._contribution(opened, expected, track)
            contribution = replace(contribution, weight=weight_of.get(client, 1.0))
            delta = contribution.delta
            if (factor := factors.get(client, 1.0)) != 1.0:
                delta = AdapterState(delta.layout, delta.flat * np.float32(factor))
            if self.norm_bound.policy is NormPolicy.CLIP:
                delta = clipped(delta, contribution.received, contribution.geometry, check.limits)
            if delta is not contribution.delta or (opened.sum and opened.sum.weight != contribution.weight):
                # What is left of a sum that was cut is its mean.
                contribution = replace(contribution, delta=delta, sum=None)
            yield contribution

    def _observer(self, context: RoundContext, clients: int) -> Observer | BottleneckObserver | None:
        spec = self.ranks.master.spec
        # It must not take longer than everything else of a round with many clients.
        modules = max(1, min(_MODULES_OBSERVED, _OBSERVED // clients))
        if is_bottleneck(spec):
            return BottleneckObserver(context, spec, modules=modules)
        return Observer(context, modules=modules) if context.geometry.pairs else None

    def _fold_private(
        self, private: PrivateRounds, state: RunState, context: RoundContext, accepted: tuple[str, ...]
    ) -> tuple[Outcome, float, list[str]]:
        """The rule's outcome on the noised mean alone, which is all of the updates that it gets to see.

        Returns:
            (the outcome, the clip norm of the next round, the clients in the mean).
        """
        sent = self.sent(context.round)
        size = sum(part.stop - part.start for part in sent)
        clip_norm = self._clip_norm(private, state, size)
        private.took_part(context.round, accepted)
        key = private.key_for(context.round, self.digest(state, context.round, accepted), clip_norm=clip_norm)
        mean = PrivateMean(private.privacy, size=size, clip_norm=clip_norm, key=key)
        folded: list[str] = []
        for client in accepted:
            expected = self.expected(state, context.round, client, 0)
            opened = open_update(self._load(context.round, client), expected)
            try:
                self.check(opened, expected, 0)
            except UpdateRefused as error:
                self.refused(context.round, client, Reason.RULE, str(error))
                continue
            if opened.sum is not None:
                mean.join(self._whole_numbers(opened, private.privacy, context.round))
            else:
                mean.add(client, np.concatenate([opened.delta.flat[part] for part in sent]))
            folded.append(client)
        released = mean.finish()
        flat: Float32 = np.zeros(context.geometry.layout.size, np.float32)
        at = 0
        for part in sent:
            flat[part] = released.mean[at : at + part.stop - part.start]
            at += part.stop - part.start
        delta = AdapterState(context.geometry.layout, flat)
        return self._of_mean(context, delta, "the noised mean"), released.clip_norm, folded

    def _fold_masked(
        self, masked: MaskedRounds, state: RunState, context: RoundContext
    ) -> tuple[Outcome, list[str], float | None, float | None]:
        """The rule's outcome on the mean of a masked sum.

        Returns:
            (the outcome, the clients in the mean, how long the next round's mean may be, or its clip norm).

        Raises:
            MachineError: the sum is gone.
            PeerError: it is one that clients within their bounds do not have.
        """
        parts = self.sent(context.round)
        stored = self.directory.load_update(context.round, sum_file("train"))
        if stored is None:
            raise MachineError(f"the sum of round {context.round} is gone, expected it to stay")
        summed = Summed.from_bytes(stored)
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
        return (
            self._of_mean(context, mean, "the mean"),
            list(summed.clients),
            masked.length(state, parts, summed),
            clip_norm,
        )

    def _of_mean(self, context: RoundContext, mean: AdapterState, name: str) -> Outcome:
        """The outcome of a linear rule, which is the same for the mean of all updates as for all of them."""
        accumulator = self.rule.begin(context)
        accumulator.add(Contribution(name, context.master, mean, 1.0, context.geometry))
        return accumulator.finish()

    def digest(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bytes:
        """SHA-256 of everything that the sum of a private round is made of."""
        private = self.private
        if private is None:
            raise ValueError("the run has no differential privacy")
        size = sum(part.stop - part.start for part in self.sent(number))
        privacy = private.privacy
        settings = (privacy.noise_multiplier, privacy.clients, self._clip_norm(private, state, size), size)
        digest = hashlib.sha256(repr((state.run_id.hex(), number, settings, len(accepted))).encode())
        digest.update(state.shadow.digest())
        for client in accepted:
            digest.update(hashlib.sha256(client.encode()).digest())
            # Of its numbers alone: what else an update says, such as times, does not matter to the sum.
            stored = self._load(number, client)
            digest.update(read_envelope(stored, max_bytes=len(stored)).payload_digest)
        return digest.digest()

    def is_intended(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """Whether a private round was about to be released from just these updates when the server stopped."""
        private = self.private
        return bool(private and not self.masked and private.is_intended(number, self.digest(state, number, accepted)))

    def _clip_norm(self, private: PrivateRounds, state: RunState, size: int) -> float:
        return private.privacy.first_clip(size) if state.clip_norm is None else state.clip_norm

    def sent(self, number: int) -> tuple[slice, ...]:
        """The parts of a delta that clients send in a round; noise anywhere else would change what stays as it is."""
        geometry = self.ranks.master.geometry
        sides = self.rule.trained(number) - {self.rule.personal}
        return slices_of(geometry, sides)

    def _load(self, number: int, client: str) -> bytes:
        update = self.directory.load_update(number, client)
        if update is None:
            raise MachineError(f"the stored update of {client!r} in round {number} is gone, expected it to stay")
        return update

    def _contribution(self, opened: Opened, expected: Expected, track: int) -> Contribution:
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
            opened.sum,
            metrics.get("slope", math.nan) / first_loss if first_loss > 0 else math.nan,
        )


def largest_update(rule: Rule, geometry: Geometry) -> int:
    """The most numbers that a client sends in a round."""
    cycle = range(1, 1 + max(1, len(rule.frozen)))
    parts = (slices_of(geometry, rule.trained(number) - {rule.personal}) for number in cycle)
    return max(sum(part.stop - part.start for part in sent) for sent in parts)
