"""The grids of a run's masked rounds, and their fold: the server has the sum of the updates, and no update.

The unit of a round's grid follows from the sums of the round before; the first round uses a guess. A member that lies
about its length makes no grid coarser than the plan allows, nor than half again the round before's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from plait.adapters import AdapterState
from plait.adapters.methods import method_named
from plait.aggregation import RoundContext
from plait.aggregation.geometry import size_of
from plait.config import RunConfig
from plait.errors import ConfigError, MachineError, PeerError
from plait.guarantees import COMPLETE, Thresholds, groups_for, least_roster, least_survivors
from plait.privacy.mechanism import ClientPrivacy
from plait.privacy.run import privacy_of
from plait.rounds.fold import Fold, Folded, outcome_of_mean
from plait.rounds.metrics import RunMetrics
from plait.rounds.run_plan import MessageBits
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.secagg.sums import (
    EVALUATION,
    NOISED,
    TRAINING,
    Coding,
    MaskedGrid,
    Summed,
    WantedSum,
    bits_for,
    check_sum,
    decode_figures,
    length_expected,
    rotated_size,
    sum_file,
    unit_for,
)
from plait.trust.masks import MOST_BITS, Ring
from plait.wire.masked_roster import CYCLES, MOST_FIGURES
from plait.wire.settings import Settings

_PROOF_BYTES = 510
"""About a certificate and an endorsement."""
_FIRST_ROUND_ROOM = 4.0
"""How much longer than the guess updates of the first round may be without being cut."""
_MOST_ROOM = 32.0
"""The same for the mean of any round: rates that clients find are higher than the method's."""
_LEAST_ROOM = 1e-3
"""Likewise the least, so that a round without movement leaves the next one a grid."""
_GROWTH = 1.5
"""How much longer the mean of a round is expected than that of the round before, at most."""


@dataclass(frozen=True)
class MaskedRounds:
    """Secure aggregation of a run.

    Attributes:
        largest_step: how far local training can move a number of the adapter in a round.
        evaluators: clients invited to an evaluation; 0 for as many as to a round.
        quorum: clients whose updates a round needs.
        privacy: where clients add noise under their masks.
        draws: whether each round has other clients of a larger number.
        metrics: that evaluations add up, of the shared adapter.
    """

    clients: int
    largest_step: float
    evaluators: int = 0
    quorum: int = 0
    privacy: ClientPrivacy | None = None
    draws: bool = False
    metrics: RunMetrics = field(default_factory=RunMetrics)

    def least(self, purpose: str) -> int:
        """The smallest roster: two thirds of those invited, so that no server makes one of a few that it chooses.

        Of an evaluation, from which clients stay out with one that leaves, as few as make no smaller sums.
        """
        if purpose != "train":
            return least_roster(min(self.clients, self.evaluators or self.clients))
        return Thresholds.of(self.clients, self.groups).roster

    @property
    def groups(self) -> int:
        """Groups of clients, each with its own sum; 1 with noise, which only the sum of all has."""
        return 1 if self.privacy else groups_for(self.clients)

    @property
    def group(self) -> int:
        """Clients of the largest group."""
        return -(-self.clients // self.groups)

    def wanted(self, state: RunState, parts: tuple[slice, ...]) -> WantedSum:
        """The sum of the next round's updates."""
        size = rotated_size(size_of(parts))
        if self.privacy:
            figures = len(NOISED)
            bits, unit = noised_grid(self.privacy, size, self.clip_norm(state, parts))
        else:
            bits, figures = bits_for(self.group), len(TRAINING)
            length = self._expected(state, size_of(parts))
            unit = unit_for(Ring(bits), clients=self.group, size=size, length=length)
        return WantedSum(
            state.run_id,
            "train",
            state.round + 1,
            bits,
            unit,
            size,
            figures,
            received=state.tracks[0].shadow.digest(),
            least=self.least("train"),
            quorum=self.quorum,
            noised=self.privacy is not None,
            groups=self.groups,
        )

    def clip_norm(self, state: RunState, parts: tuple[slice, ...]) -> float:
        """The clip norm of the next round; 0 where clients add no noise."""
        if self.privacy is None:
            return 0.0
        return self.privacy.first_clip(size_of(parts)) if state.clip_norm is None else state.clip_norm

    def next_clip(self, clip_norm: float, summed: Summed) -> float | None:
        """The clip norm of the round after; None where clients add no noise."""
        if self.privacy is None:
            return None
        counting, clients = self.privacy.count_shares, len(summed.clients)
        within = decode_figures(summed.figures, NOISED)["within"] / (counting.sensitivity if counting else 1)
        return self.privacy.next_clip(clip_norm, within, clients)

    @property
    def evaluated(self) -> Mapping[str, int]:
        """The figures of a client's evaluation, and their scales."""
        return {**EVALUATION, **self.metrics.scales}

    def wanted_losses(self, state: RunState, purpose: str) -> WantedSum:
        """The sum of the losses of the adapter after this round."""
        received = state.tracks[0].shadow.digest()
        return WantedSum(
            state.run_id, purpose, state.round, 2, 1.0, 0, len(self.evaluated), received, self.least(purpose)
        )

    def link_bits(self, size: int, *, sums: int, certified: bool) -> MessageBits:
        """What updates of `size` parameters take with the stages of so many sums.

        `certified` where clients prove their keys to each other; ConfigError if no sum can carry it.
        """
        near = 2 * CYCLES if self.clients > COMPLETE else self.clients - 1
        rotated, proof = rotated_size(size), _PROOF_BYTES * certified
        bits = noised_grid(self.privacy, rotated, 1.0)[0] if self.privacy else bits_for(self.group)
        up, down = 290 + proof + 221 * (near + 1), 210 + (294 + proof) * self.clients + 250 * near
        return MessageBits((bits * rotated + 8 * sums * up) / size, 8 * sums * down / size)

    def length(self, state: RunState, parts: tuple[slice, ...], summed: Summed) -> float | None:
        """How long the mean of the next round's updates may be."""
        if self.privacy:
            return None
        sent, count = size_of(parts), len(summed.clients)
        rms = math.sqrt(max(decode_figures(summed.figures, TRAINING)["square"], 0.0) / count) * summed.unit
        measured = length_expected(mean=summed.length * summed.unit, rms=rms, clients=count // summed.groups)
        guess = self._guess(sent)
        return max(min(measured, _GROWTH * self._expected(state, sent), _MOST_ROOM * guess), _LEAST_ROOM * guess)

    def _expected(self, state: RunState, sent: int) -> float:
        return _FIRST_ROUND_ROOM * self._guess(sent) if state.update_length is None else state.update_length

    def _guess(self, sent: int) -> float:
        """How long an update is by the plan: half of the steps' length in every number."""
        return self.largest_step * math.sqrt(sent) / 2


def masked_of(config: RunConfig) -> MaskedRounds:
    """The sums of a run."""
    rate = config.learning_rate or method_named(config.method).learning_rate_at(config.rank)
    quorum = math.ceil(config.quorum * config.cohort_size)
    metrics = RunMetrics.of(config.eval_metrics, len(config.label_names), masked=True)
    if (count := len(EVALUATION) + metrics.size) > MOST_FIGURES:
        raise ConfigError(f"eval-metrics are {count} sums, but masks hide at most {MOST_FIGURES}: leave out auroc")
    return MaskedRounds(
        config.cohort_size,
        rate * config.local_steps,
        config.eval_clients,
        quorum,
        privacy_of(config),
        draws=config.cohort_size < config.clients,
        metrics=metrics,
    )


def noised_grid(privacy: ClientPrivacy, size: int, clip_norm: float) -> tuple[int, float]:
    """Bits and unit of a round whose clients add noise."""
    shares = privacy.shares(size)
    bits = shares.bits(privacy.clients, size)
    if bits > MOST_BITS:
        raise ConfigError(
            f"clients-per-round is {privacy.clients:,} with dp 'client' under secure-aggregation, which takes {bits} "
            f"bits for each number, expected at most {MOST_BITS}: give a larger noise, or fewer clients per round"
        )
    return bits, clip_norm / shares.sensitivity


def privacy_of_clients(settings: Settings) -> ClientPrivacy:
    """The noise of which a client adds its share."""
    return ClientPrivacy(
        noise_multiplier=settings.client_noise,
        delta=0.0,
        epsilon=None,
        clients=settings.client_cohort,
        clip_norm=settings.client_clip or None,
        quantile=0.0,
        largest_step=0.0,
        guaranteed=least_survivors(settings.client_cohort),
    )


def check_grid(privacy: ClientPrivacy, size: int, *, bits: int, unit: float, clients: int) -> None:
    """Refuse a grid on which a client's noise would not be as the run configuration promises."""
    if clients > privacy.clients:
        # Shares of more clients could be so small that their sum is no Gaussian any more.
        raise PeerError(f"roster of the masked sum has {clients} clients, expected at most {privacy.clients}")
    expected, clip_unit = noised_grid(privacy, size, privacy.clip_norm or 0.0)
    if bits != expected:
        raise PeerError(f"ring of the masked sum has {bits} bits, expected {expected} for this noise")
    if privacy.clip_norm is not None and not math.isclose(unit, clip_unit, rel_tol=1e-9):
        raise PeerError(f"unit of the masked sum is {unit:g}, expected {clip_unit:g} for this clip norm")


@dataclass(frozen=True)
class MaskedFold(Fold):
    """The rule's outcome on the mean of a masked sum."""

    spool: Spool
    masked: MaskedRounds

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """The rule's outcome on the mean; the step of a sum that is lost is zero."""
        del stored
        masked, parts = self.masked, self.spool.sent(context.round)
        kept = self.spool.directory.load_update(context.round, sum_file("train"))
        if kept is None:
            raise MachineError(f"the sum of round {context.round} is gone from the run's spool")
        summed = Summed.from_bytes(kept)
        if not summed.clients:
            still = AdapterState.zeros(context.geometry.layout)
            return Folded(outcome_of_mean(self.spool.rule, context, still, "the mean"), ())
        try:
            check_sum(Ring(summed.bits), summed.deviation)
        except PeerError as error:
            raise PeerError(
                f"round {context.round} has no usable sum: {error}. The run ends with the adapter of round "
                f"{context.round - 1}; another run can go on from it (--init-adapter)"
            ) from error
        coding = Coding(Ring(summed.bits), summed.invited, summed.unit)
        grid = MaskedGrid(coding, parts, state.tracks[0].shadow.digest(), context.round)
        mean = grid.decode(summed.numbers, context.geometry.layout, clients=len(summed.clients))
        clip_norm = masked.next_clip(masked.clip_norm(state, parts), summed)
        length = masked.length(state, parts, summed)
        return Folded(
            outcome_of_mean(self.spool.rule, context, mean, "the mean"),
            summed.clients,
            keep=lambda before: replace(before, update_length=length, clip_norm=clip_norm),
        )
