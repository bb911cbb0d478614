"""Paired hooks around a client's training, in the order of a list: run forward before it and backward after it.

A hook changes the starting point of training or the values carried into it (`before`), then the outgoing delta
(`after`), and may keep a value from round to round. The last hook of the list is nearest to training.

**The personalized adapter** (`--own-share`) lies between the shared one and the point where a client's own steps alone
would lead, as in Hanzely and Richtárik, "Federated Learning of a Mixture of Global and Local Models", arXiv 2002.05516.
All rounds start from the shared adapter except the last, which starts on the way to the client's own: so both cost the
steps and bytes of one. Every round adds a step to the sum of the client's own steps and decays it, because those of
earlier rounds started from an adapter that has moved on since.

**Error feedback**: the error of an encoding is added to the next input, at clients and at the server. EF-SGD
(Karimireddy et al., arXiv 1901.09847, algorithm 2) on adapter deltas: with delta d, residual e and codec C, send
C(d + e), keep e' = (d + e) - C(d + e). A codec that decodes to the conditional mean shrinks: of w arrives (1 - D) w
plus noise of energy D (1 - D) |w|^2, where D is its relative distortion. With feedback that part lags D / (1 - D)
rounds on each link, which a gain g removes: the input is first multiplied by it (the codec is scale-invariant). With
a = 1 - g (1 - D) the lag is a / (1 - a) rounds, and the residual's noise obeys N' = (a^2 + g^2 D (1 - D)) N +
g^2 D (1 - D) |d|^2. The gain 1 / (1 - D) leaves no lag; if the factor of N exceeds 1, the feedback diverges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32, Layout, add, subtract
from plait.aggregation import BOTH_SIDES, Geometry, Side, geometry_of
from plait.rounds.local_model import DeltaGrid, Moments, Trained, TrainJob
from plait.rounds.memory import ClientState, ClientStore, Kept, recall_state
from plait.wire.codec import Codec
from plait.wire.envelope import EncodedDelta, encode_delta
from plait.wire.settings import Settings


@dataclass(frozen=True, eq=False)
class Outgoing:
    """The delta that a client is about to send."""

    trained: Trained
    delta: AdapterState
    encoded: EncodedDelta | None = None  # once a hook has packed it
    numbers: NDArray[np.int32] | None = None  # on the job's grid
    metrics: Mapping[str, float] | None = None  # None for those that the trainer reports


class Hook(Protocol):
    """A change to a client's round before training, and its counterpart afterwards."""

    @property
    def key(self) -> str:
        """Key of its value in the client's memory; empty for a hook without one."""
        ...

    def applies(self, settings: Settings) -> bool:
        """Whether it is active in a round with these settings."""
        ...

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """The job to train; `kept` is the hook's value from the client's previous round, empty if there is none."""
        ...

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept | None]:
        """The delta to send, and the value to keep for the next round; None keeps the current one."""
        ...


def before_training(hooks: Sequence[Hook], job: TrainJob, memory: ClientStore) -> TrainJob:
    """The job with the changes of all `hooks`."""
    found: dict[str, Kept] = {}
    for hook in hooks:
        if hook.applies(job.settings):
            found[hook.key] = _recall(memory, hook.key, job)
            job = hook.before(job, found[hook.key])
    return replace(job, kept=found)


def after_training(hooks: Sequence[Hook], job: TrainJob, trained: Trained, memory: ClientStore) -> Outgoing:
    """The delta to send; afterwards `memory` has the hooks' values for the next round."""
    outgoing = Outgoing(trained, subtract(trained.state, job.start))
    left: dict[str, Kept] = {}
    for hook in reversed(hooks):
        if hook.applies(job.settings):
            outgoing, kept = hook.after(job, job.kept[hook.key], outgoing)
            if kept is not None:
                left[hook.key] = replace(kept, round=job.settings.round)
    for key, kept in left.items():
        memory.save(key, ClientState(job.run_id, job.kept[key], kept).to_bytes())
    return outgoing


def _recall(memory: ClientStore, key: str, job: TrainJob) -> Kept:
    if not key:
        return Kept()
    given = recall_state(memory, key, job.run_id).given_in(job.settings.round)
    # A copy, so that the other value read with it need not stay in memory during training.
    return replace(given, arrays={name: array.copy() for name, array in given.arrays.items()})


@dataclass(frozen=True)
class CarriedMoments:
    """The hook: training continues with the moments of the round before (AdamW, arXiv 1711.05101)."""

    key = "moments"

    def applies(self, settings: Settings) -> bool:
        """Active if the run carries moments."""
        return settings.carry_moments

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pass them to the optimizer."""
        layout = job.received.layout
        moments = Moments.of(kept, layout.size, len(layout.slots))
        return replace(job, carried=replace(job.carried, moments=moments))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept | None]:
        """Keep the optimizer's moments."""
        del job, kept
        moments = outgoing.trained.moments
        return outgoing, moments and moments.kept()


class FoundRate:
    """The hook: training continues at the learning rate that was found."""

    key = "rate"

    def applies(self, settings: Settings) -> bool:
        """Active if the run gives no learning rate."""
        return not settings.learning_rate

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pass it to the trainer."""
        found = kept.tags.get("learning rate")
        return replace(job, carried=replace(job.carried, learning_rate=float(found) if found else None))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep it."""
        del job, kept
        found = outgoing.trained.report.learning_rate
        return outgoing, Kept(tags={"learning rate": repr(found)} if found else {})


@dataclass(frozen=True)
class Slope:
    """The hook: training receives the last movement, and measures the slope along it."""

    key = "slope"

    def applies(self, settings: Settings) -> bool:
        """Active if the server's step follows the slope."""
        return settings.measures_slope

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pass on the movement, except where training begins elsewhere or the client was away in the round before."""
        received = kept.vector("received", job.received.layout.size)
        if received is None or kept.round != job.settings.round - 1 or job.start is not job.received:
            return job
        movement = job.received.flat - received
        return replace(job, carried=replace(job.carried, movement=movement))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the adapter that was received."""
        del kept
        return outgoing, Kept(arrays={"received": job.received.flat})


OWN_SIDE = "own side"


@dataclass(frozen=True)
class OwnSide:
    """The hook: training starts from the own side, which is not sent (FedSA-LoRA, Guo et al., arXiv 2410.01463)."""

    key = "own"

    def applies(self, settings: Settings) -> bool:
        """Active if a side is personal."""
        return bool(settings.personal)

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Start from the own side."""
        return replace(job, start=with_own(job.start, kept, geometry_of(job.spec), Side(job.settings.personal)))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the side and leave it out of the delta."""
        del kept
        geometry, side = geometry_of(job.spec), Side(job.settings.personal)
        left = kept_side(outgoing.trained.state, geometry, side)
        return replace(outgoing, delta=without(outgoing.delta, geometry, side)), left


def with_own(state: AdapterState, kept: Kept, geometry: Geometry, side: Side) -> AdapterState:
    """`state` with the client's own side; unchanged if it has none yet."""
    values = kept.vector("side", geometry.side_size(side))
    if values is None:
        return state
    flat, at = state.flat.copy(), 0
    for part in _parts(geometry, side):
        flat[part] = values[at : at + part.stop - part.start]
        at += part.stop - part.start
    return AdapterState(state.layout, flat)


def kept_side(state: AdapterState, geometry: Geometry, side: Side) -> Kept:
    """The client's own side of an adapter, pair by pair, as stored."""
    values: Float32 = np.concatenate([state.flat[part] for part in _parts(geometry, side)])
    return Kept(arrays={"side": values}, tags={"kind": OWN_SIDE, "side": side.value})


def without(delta: AdapterState, geometry: Geometry, side: Side) -> AdapterState:
    """A delta with one side set to zero."""
    flat = delta.flat.copy()
    for part in _parts(geometry, side):
        flat[part] = 0.0
    return AdapterState(delta.layout, flat)


def _parts(geometry: Geometry, side: Side) -> list[slice]:
    slots = [pair.slot(side) for pair in geometry.pairs]
    return [slice(slot.offset, slot.offset + slot.size) for slot in slots]


OWN_ADAPTER = "own adapter"

# Decay per round; with other values a personalized adapter is worse (simulations/LOG.md).
_LASTS = 0.7

# Part of the way to a client's own adapter from which its last round starts. Figures: `simulations/defaults`.
_STARTS = 1 / 7


@dataclass(frozen=True)
class OwnShare:
    """The hook: the last round starts on the way to the personalized adapter, and every round updates it."""

    key = "own"

    def applies(self, settings: Settings) -> bool:
        """Active if clients have personalized adapters and no side of the shared one is personal."""
        return bool(settings.own_share) and not settings.personal

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Start the last round on the way to the personalized adapter."""
        return replace(job, start=own_adapter(job.start, kept, share_at_start(job.settings)))

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the direction of the client's own steps."""
        lead = own_lead(outgoing.trained.state, job.received, kept, job.settings)
        return outgoing, kept_lead(lead, job.settings.own_share)


def share_at_start(settings: Settings) -> float:
    """Weight of the client's own direction in the adapter that a round starts from: 0 before the last round."""
    is_last = settings.done_steps + settings.local_steps >= settings.total_steps
    return _STARTS * settings.own_share if is_last else 0.0


def share_measured(settings: Settings) -> float:
    """Weight of the client's own direction in an evaluated personalized adapter; 0 before the last round is over."""
    return settings.own_share if settings.done_steps >= settings.total_steps else 0.0


def own_adapter(shared: AdapterState, kept: Kept, share: float) -> AdapterState:
    """A client's personalized adapter; the shared one if it has none yet, or for a `share` of 0."""
    lead = kept.vector("lead", shared.layout.size)
    if lead is None or not share:
        return shared
    step = np.float32(share) * (lead - shared.flat)
    return AdapterState(shared.layout, (shared.flat + step).astype(np.float32))


def own_lead(after: AdapterState, shared: AdapterState, kept: Kept, settings: Settings) -> AdapterState:
    """The point where a client's own steps lead after a round."""
    lead = kept.vector("lead", shared.layout.size)
    if lead is None:
        return after
    rest = np.float32(max(0.0, _LASTS - share_at_start(settings))) * (lead - shared.flat)
    return AdapterState(after.layout, (after.flat + rest).astype(np.float32))


def kept_lead(lead: AdapterState, share: float) -> Kept:
    """The point where a client's own steps lead, and the share, as stored."""
    return Kept(arrays={"lead": lead.flat}, tags={"kind": OWN_ADAPTER, "share": repr(share)})


_MOST_NOISE_KEPT = 0.8


@dataclass(frozen=True, eq=False)
class Residual:
    """What an encoder has not yet delivered to its receiver."""

    pending: AdapterState

    def to_encode(self, codec: Codec) -> AdapterState:
        """The input with which, under a steady drift, everything pending arrives."""
        gain, pending = feedback_gain(codec.distortion), self.pending
        return pending if gain == 1 else AdapterState(pending.layout, pending.flat * np.float32(gain))

    def after_sending(self, arrived: AdapterState) -> Residual:
        """The residual once a receiver has decoded `arrived`."""
        return Residual(subtract(self.pending, arrived))

    def plus(self, movement: AdapterState) -> Residual:
        """The residual with this much more to send."""
        return Residual(add(self.pending, movement))

    def kept(self) -> Kept:
        """The residual as stored; empty for none."""
        return Kept(arrays={"owed": self.pending.flat} if self.pending.flat.any() else {})

    @classmethod
    def of(cls, kept: Kept, layout: Layout) -> Residual:
        """The inverse of `kept`; zero if it is lost or of another adapter."""
        pending = kept.vector("owed", layout.size)
        return cls(AdapterState.zeros(layout) if pending is None else AdapterState(layout, pending))


@dataclass(frozen=True)
class ErrorFeedback:
    """The hook that packs the delta together with the residual of earlier rounds, and keeps the new residual."""

    key = "residual"

    def applies(self, settings: Settings) -> bool:
        """Where the next round's factors are the same, and noise of the client's own would not be part of the error."""
        return not settings.without_feedback and not settings.adds_share

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Training knows nothing of it."""
        del kept
        return job

    def after(self, job: TrainJob, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Pack the delta and the residual."""
        kept = _recent(kept, job)
        if job.grid is not None:
            return self._on_grid(job.grid, kept, outgoing)
        codec = job.settings.codec
        residual = Residual.of(kept, outgoing.delta.layout).plus(outgoing.delta)
        wanted = residual.to_encode(codec)
        # The residual of an untrained side waits for a round that trains it.
        for side in BOTH_SIDES - set(map(Side, job.settings.trained)):
            wanted = without(wanted, geometry_of(job.spec), side)
        encoded = encode_delta(wanted, codec)
        return replace(outgoing, encoded=encoded), residual.after_sending(encoded.delta).kept()

    @staticmethod
    def _on_grid(grid: DeltaGrid, kept: Kept, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Rounding to a grid at random is right on average, so it needs neither gain nor lead."""
        residual = Residual.of(kept, outgoing.delta.layout).plus(outgoing.delta)
        numbers, arrived = grid.rounded(residual.pending)
        return replace(outgoing, numbers=numbers), residual.after_sending(arrived).kept()


def _recent(kept: Kept, job: TrainJob) -> Kept:
    """What a client of the previous round kept; nothing for one that was away, because the others have moved on."""
    return kept if kept.round + 1 >= job.settings.round else Kept()


def unshrunk(delta: AdapterState, codec: Codec) -> AdapterState:
    """The input that decodes to `delta` on average, without feedback: what shrinks by 1 - D is multiplied before."""
    return AdapterState(delta.layout, delta.flat * np.float32(1 / (1 - codec.distortion)))


def feedback_gain(distortion: float) -> float:
    """The gain for a codec of this relative distortion (see above)."""
    if distortion <= 0:
        return 1.0
    unbiased = 1 / (1 - distortion)
    room = 1 - (1 - _MOST_NOISE_KEPT) / (1 - distortion)
    # The larger root of 1 - 2 g (1 - D) + g^2 (1 - D) = _MOST_NOISE_KEPT; without one the feedback has no gain.
    return min(unbiased, 1 + math.sqrt(room)) if room > 0 else 1.0
