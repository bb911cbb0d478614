"""The pipeline of a client: hooks around its training, how its updates are sent, and what they are charged to.

**Hooks** are paired, in the order of a list: run forward before training and backward after it. A hook changes the
starting point of training or the values carried into it (`before`), then the outgoing delta (`after`), and may keep a
value from round to round. The last hook of the list is nearest to training.

By default updates are sent in the open and charged to nothing; `plait.composition` exchanges parts of the pipeline.

**The personalized adapter** (`--personalize`) lies between the shared one and the point where a client's own steps
alone would lead, as in Hanzely and Richtárik, "Federated Learning of a Mixture of Global and Local Models", arXiv
2002.05516. All rounds start from the shared adapter except the last, which starts on the way to the client's own: so
both cost the steps and bytes of one. Every round adds a step to the sum of the client's own steps and decays it,
because those of earlier rounds started from an adapter that has moved on since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout, add, subtract
from plait.aggregation import BOTH_SIDES, Geometry, Side, geometry_of
from plait.aggregation.geometry import gathered, put, without
from plait.compress.feedback import pack
from plait.errors import PolicyError
from plait.rounds.local_model import DataSize, Moments, Trained, TrainJob
from plait.rounds.memory import ClientState, ClientStore, Kept, recall_state
from plait.rounds.terms import AgreedTerms
from plait.wire.encoding import EncodedDelta, Encoding, encode_delta
from plait.wire.envelope import Direction, Header, seal, with_signature
from plait.wire.messages import Evaluation, Reply, UpdateReply
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.rounds.data_journal import ClientSecret, DataJournal
    from plait.trust.keys import NodeIdentity
    from plait.wire.masked_messages import MaskingTask


@dataclass(frozen=True, eq=False)
class Outgoing:
    """The delta that a client is about to send."""

    trained: Trained
    delta: AdapterState
    encoded: EncodedDelta | None = None  # once a hook has packed it
    numbers: NDArray[np.int32] | None = None  # on the job's grid
    metrics: Mapping[str, float] | None = None  # None for those that the trainer reports


class Hook(Protocol):
    """A change to a client's round before training, and its counterpart afterwards; nothing by default.

    Attributes:
        key: of its value in the client's memory; empty for a hook without one.
    """

    key: ClassVar[str] = ""

    def applies(self, settings: Settings) -> bool:
        """Whether it is active in a round with these settings."""
        del settings
        return True

    def before(self, job: TrainJob) -> TrainJob:
        """The job to train; `job.kept` has the hook's value from the previous round, empty if there is none."""
        return job

    def after(self, job: TrainJob, outgoing: Outgoing) -> tuple[Outgoing, Kept | None]:
        """The delta to send, and the value to keep for the next round; None keeps the current one."""
        del job
        return outgoing, None


def before_training(hooks: Sequence[Hook], job: TrainJob, memory: ClientStore) -> TrainJob:
    """The job with the changes of all `hooks`."""
    for hook in hooks:
        if hook.applies(job.settings):
            job = hook.before(replace(job, kept={**job.kept, hook.key: _recall(memory, hook.key, job)}))
    return job


def after_training(hooks: Sequence[Hook], job: TrainJob, trained: Trained, memory: ClientStore) -> Outgoing:
    """The delta to send; afterwards `memory` has the hooks' values for the next round."""
    outgoing = Outgoing(trained, subtract(trained.state, job.start))
    left: dict[str, Kept] = {}
    for hook in reversed(hooks):
        if hook.applies(job.settings):
            outgoing, kept = hook.after(job, outgoing)
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


class CarriedMoments(Hook):
    """The hook: training continues with the moments of the round before (AdamW, arXiv 1711.05101)."""

    key = "moments"

    def applies(self, settings: Settings) -> bool:
        """Active if the run carries moments."""
        return settings.carry_moments

    def before(self, job: TrainJob) -> TrainJob:
        """Pass them to the optimizer."""
        layout = job.received.layout
        moments = Moments.of(job.kept[self.key], layout.size, len(layout.slots))
        return replace(job, carried=replace(job.carried, moments=moments))

    def after(self, job: TrainJob, outgoing: Outgoing) -> tuple[Outgoing, Kept | None]:
        """Keep the optimizer's moments."""
        del job
        moments = outgoing.trained.moments
        return outgoing, moments and moments.kept()


class FoundRate(Hook):
    """The hook: training continues at the learning rate that was found."""

    key = "rate"

    def applies(self, settings: Settings) -> bool:
        """Active if the run gives no learning rate."""
        return not settings.learning_rate

    def before(self, job: TrainJob) -> TrainJob:
        """Pass it to the trainer."""
        found = job.kept[self.key].tags.get("learning rate")
        return replace(job, carried=replace(job.carried, learning_rate=float(found) if found else None))

    def after(self, job: TrainJob, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep it."""
        del job
        found = outgoing.trained.report.learning_rate
        return outgoing, Kept(tags={"learning rate": repr(found)} if found else {})


class Slope(Hook):
    """The hook: training receives the last movement, and measures the slope along it."""

    key = "slope"

    def applies(self, settings: Settings) -> bool:
        """Active if the server's step follows the slope."""
        return settings.measures_slope

    def before(self, job: TrainJob) -> TrainJob:
        """Pass on the movement, except where training begins elsewhere or the client was away in the round before."""
        kept = job.kept[self.key]
        received = kept.vector("received", job.received.layout.size)
        if received is None or kept.round != job.settings.round - 1 or job.start is not job.received:
            return job
        movement = job.received.flat - received
        return replace(job, carried=replace(job.carried, movement=movement))

    def after(self, job: TrainJob, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the adapter that was received."""
        return outgoing, Kept(arrays={"received": job.received.flat})


OWN_SIDE = "own side"


class OwnSide(Hook):
    """The hook: training starts from the own side, which is not sent (FedSA-LoRA, Guo et al., arXiv 2410.01463)."""

    key = "own"

    def applies(self, settings: Settings) -> bool:
        """Active if a side is personal."""
        return bool(settings.personal)

    def before(self, job: TrainJob) -> TrainJob:
        """Start from the own side."""
        return replace(
            job, start=with_own(job.start, job.kept[self.key], geometry_of(job.spec), Side(job.settings.personal))
        )

    def after(self, job: TrainJob, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the side and leave it out of the delta."""
        geometry, side = geometry_of(job.spec), Side(job.settings.personal)
        left = kept_side(outgoing.trained.state, geometry, side)
        return replace(outgoing, delta=without(outgoing.delta, geometry, {side})), left


def with_own(state: AdapterState, kept: Kept, geometry: Geometry, side: Side) -> AdapterState:
    """`state` with the client's own side; unchanged if it has none yet."""
    values = kept.vector("side", geometry.side_size(side))
    if values is None:
        return state
    flat = state.flat.copy()
    put(flat, _parts(geometry, side), values)
    return AdapterState(state.layout, flat)


def kept_side(state: AdapterState, geometry: Geometry, side: Side) -> Kept:
    """The client's own side of an adapter, pair by pair, as stored."""
    values = gathered(state, _parts(geometry, side))
    return Kept(arrays={"side": values}, tags={"kind": OWN_SIDE, "side": side.value})


def _parts(geometry: Geometry, side: Side) -> list[slice]:
    return [pair.slot(side).part for pair in geometry.pairs]


OWN_ADAPTER = "own adapter"

# Decay per round; with other values a personalized adapter is worse (simulations/LOG.md).
_LASTS = 0.7

# Part of the way to a client's own adapter from which its last round starts. Figures: `simulations/defaults`.
_STARTS = 1 / 7


class OwnShare(Hook):
    """The hook: the last round starts on the way to the personalized adapter, and every round updates it."""

    key = "own"

    def applies(self, settings: Settings) -> bool:
        """Active if clients have personalized adapters and no side of the shared one is personal."""
        return bool(settings.personalize) and not settings.personal

    def before(self, job: TrainJob) -> TrainJob:
        """Start the last round on the way to the personalized adapter."""
        return replace(job, start=own_adapter(job.start, job.kept[self.key], share_at_start(job.settings)))

    def after(self, job: TrainJob, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Keep the point where the client's own steps lead."""
        after, shared = outgoing.trained.state, job.received
        lead = job.kept[self.key].vector("lead", shared.layout.size)
        if lead is not None:
            rest = np.float32(max(0.0, _LASTS - share_at_start(job.settings))) * (lead - shared.flat)
            after = AdapterState(after.layout, (after.flat + rest).astype(np.float32))
        return outgoing, kept_lead(after, job.settings.personalize)


def share_at_start(settings: Settings) -> float:
    """Weight of the client's own direction in the adapter that a round starts from: 0 before the last round."""
    is_last = settings.done_steps + settings.local_steps >= settings.total_steps
    return _STARTS * settings.personalize if is_last else 0.0


def share_measured(settings: Settings) -> float:
    """Weight of the client's own direction in an evaluated personalized adapter; 0 before the last round is over."""
    return settings.personalize if settings.done_steps >= settings.total_steps else 0.0


def own_adapter(shared: AdapterState, kept: Kept, share: float) -> AdapterState:
    """A client's personalized adapter; the shared one if it has none yet, or for a `share` of 0."""
    lead = kept.vector("lead", shared.layout.size)
    if lead is None or not share:
        return shared
    step = np.float32(share) * (lead - shared.flat)
    return AdapterState(shared.layout, (shared.flat + step).astype(np.float32))


def kept_lead(lead: AdapterState, share: float) -> Kept:
    """The point where a client's own steps lead, and the share, as stored."""
    return Kept(arrays={"lead": lead.flat}, tags={"kind": OWN_ADAPTER, "share": repr(share)})


class ErrorFeedback(Hook):
    """The hook that packs the delta together with the residual of earlier rounds, and keeps the new residual."""

    key = "residual"

    def applies(self, settings: Settings) -> bool:
        """Where the next round's factors are the same, and noise of the client's own would not be part of the error."""
        return not settings.without_feedback and not settings.adds_share

    def after(self, job: TrainJob, outgoing: Outgoing) -> tuple[Outgoing, Kept]:
        """Pack the delta and the residual."""
        kept = job.kept[self.key]
        if kept.round + 1 < job.settings.round:
            kept = Kept()  # It was away, and the others have moved on.
        owed = _owed(kept, outgoing.delta.layout)
        if job.grid is not None:
            # Rounding to a grid at random is right on average, so it needs neither gain nor lead.
            pending = add(owed, outgoing.delta)
            numbers, arrived = job.grid.rounded(pending)
            return replace(outgoing, numbers=numbers), _kept_owed(subtract(pending, arrived))
        # What is owed of an untrained side waits for a round that trains it.
        untrained = BOTH_SIDES - set(map(Side, job.settings.trained))

        def trained(wanted: AdapterState) -> AdapterState:
            return without(wanted, geometry_of(job.spec), untrained) if untrained else wanted

        encoded, owed = pack(outgoing.delta, job.settings.codec, owed=owed, only=trained)
        return replace(outgoing, encoded=encoded), _kept_owed(owed)


def _owed(kept: Kept, layout: Layout) -> AdapterState:
    """What a client owes, as kept; zero if it is lost or of another adapter."""
    owed = kept.vector("owed", layout.size)
    return AdapterState.zeros(layout) if owed is None else AdapterState(layout, owed)


def _kept_owed(owed: AdapterState) -> Kept:
    """The inverse of `_owed`; empty for nothing."""
    return Kept(arrays={"owed": owed.flat} if owed.flat.any() else {})


HOOKS: tuple[Hook, ...] = (CarriedMoments(), FoundRate(), OwnShare(), OwnSide(), Slope())
"""The hooks around training, besides those of privacy. Error feedback packs the delta, so it comes before all."""

_LEAST_AVERAGED = 4
"""Sequences that a reported loss or slope is at least the mean of."""


class UpdateSender(Protocol):
    """How the answers of one client leave it; in the open but for its updates."""

    def settings(self, settings: Settings) -> Settings:
        """The settings that a client trains by, from those of its task."""
        return settings

    def begin(self, job: TrainJob) -> TrainJob:
        """A job before its hooks run; `PeerError` if no update of it could leave now."""
        return job

    def update(self, job: TrainJob, outgoing: Outgoing) -> Reply:
        """The answer to a task of training."""
        ...

    def losses(self, header: Header, settings: Settings, measure: Callable[[], Evaluation]) -> Reply:
        """The answer to a task of evaluation; `PeerError`, and nothing is measured, if losses may not leave now."""
        del header, settings
        return measure()

    def answer(self, task: MaskingTask) -> Reply:
        """The answer to a stage of a masked sum."""
        del task
        raise PolicyError("a masked sum is asked for, but the run configuration has no masks")


@dataclass(frozen=True)
class PlainSender(UpdateSender):
    """The server sees each update and all losses; updates are signed (64 bytes) if there is `sign`."""

    client: str
    sign: Callable[[bytes], bytes] | None = None

    def update(self, job: TrainJob, outgoing: Outgoing) -> UpdateReply:
        """The update as an envelope, signed."""
        header = job.header
        if header is None:
            raise ValueError("the job belongs to no task")
        encoded = outgoing.encoded or encode_delta(outgoing.delta, job.settings.codec)
        outgoing_header = Header(
            direction=Direction.UPDATE,
            run_id=header.run_id,
            round=job.settings.round,
            client=self.client,
            base_fingerprint=header.base_fingerprint,
            spec_digest=header.spec_digest,
            relative_to=header.result_digest,
            examples=job.examples,
            metrics=_metrics(job, outgoing.trained, encoded.encoding) if outgoing.metrics is None else outgoing.metrics,
        )
        update = seal(outgoing_header, encoded).data
        return UpdateReply(with_signature(update, self.sign) if self.sign else update)


def _metrics(job: TrainJob, trained: Trained, encoding: Encoding) -> dict[str, float]:
    report = trained.report
    optional = {name: getattr(report, name) for name in ("learning_rate", "shortened", "reward", "refused_completions")}
    if min(job.settings.step_examples, len(job.settings.part_of(job.examples))) >= _LEAST_AVERAGED:
        optional |= {"first_loss": report.first_loss, "slope": report.slope}
    return {
        "train_loss": report.loss,
        **{name: figure for name, figure in optional.items() if figure is not None},
        "train_tokens": float(report.tokens),
        "train_s": report.seconds,
        "distortion": encoding.distortion or 0.0,
        "codec_s": encoding.codec_s,
    }


@dataclass(frozen=True)
class ClientPipeline:
    """The parts of a client that are exchanged.

    Attributes:
        hooks: nearest to training, so that they see all that it is made of.
        agree: refuses, before anything is trained, what the run would cost this client's data.
        is_open: whether nothing is held back, so that runs in which clients keep something to themselves are refused.
    """

    sender: UpdateSender
    hooks: tuple[Hook, ...] = ()
    agree: Callable[[DataSize, Settings], None] = lambda _size, _settings: None
    is_open: bool = True


@dataclass(frozen=True)
class ClientContext:
    """A client, with everything that the parts of its way need.

    Attributes:
        secret: of the run; if None, one is drawn and kept in `memory` when it is needed.
    """

    name: str
    memory: ClientStore
    _: KW_ONLY
    sign: Callable[[bytes], bytes] | None = None
    terms: AgreedTerms | None = None
    identity: Callable[[], NodeIdentity] | None = None
    journal: DataJournal | None = None  # over all runs; None in a simulation
    secret: Callable[[], ClientSecret] | None = None

    @property
    def own_secret(self) -> ClientSecret:
        """Its secret of the run."""
        if self.secret:
            return self.secret()
        from plait.rounds.data_journal import ClientSecret  # with masks or differential privacy only

        return ClientSecret.of(self.memory)
