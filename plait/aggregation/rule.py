"""An aggregation rule: an algorithm, its properties, and a round of it.

A rule states only the traits that differ from FedAvg's on low-rank factors. Updates come in client order, one at a
time, and each is checked before anything is changed. To add one: a value beside its family, and a line in `RULES`.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import mean
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Subject, check_finite
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Pair, Side, size_of, slices_of, without
from plait.errors import ConfigError, PeerError
from plait.settings.choice import with_options
from plait.settings.traits import Reasons, Trait

# Far above any count of examples or tokens, far below where float64 sums of weights lose whole numbers.
_LARGEST_WEIGHT = 1e12


@dataclass(frozen=True, eq=False)
class Contribution:
    """One client's delta.

    Attributes:
        received: the adapter that it trained from, in its own layout.
        delta: its adapter after training minus `received`.
        weight: positive; only its ratio to the other clients' weights matters.
        geometry: of its own layout, whose rank differs from the server's where ranks are mixed.
        examples: the training examples that it states; 0 where that is not known.
        loss: the mean loss of its local steps, as it states it; NaN where that is not known.
        slope: of its first loss along the adapter's last movement, over that loss, as it states them; NaN likewise.
    """

    client: str
    received: AdapterState
    delta: AdapterState
    weight: float
    geometry: Geometry
    examples: int = 0
    loss: float = math.nan
    slope: float = math.nan

    def check(self, server: Geometry, *, ranks: "RankRange", frozen: Collection[Side] = ()) -> None:
        """Refuse what cannot be aggregated."""
        try:
            if not (math.isfinite(self.weight) and 0 < self.weight <= _LARGEST_WEIGHT):
                raise PeerError(f"weight is {self.weight:g}, expected more than 0 and at most {_LARGEST_WEIGHT:g}")
            self._check_geometry(server, ranks)
            check_finite(self.delta)
            for side in sorted(frozen):
                self._check_frozen(side)
        except PeerError as error:
            raise PeerError(f"update of {self.client!r}: {error}") from error

    def _check_geometry(self, server: Geometry, ranks: "RankRange") -> None:
        own = self.geometry
        for state in (self.received, self.delta):
            if state.layout is not own.layout and state.layout.digest != own.layout.digest:
                raise PeerError("tensors or ranks are not the ones of the declared adapter")
        if own is server:
            return
        if [(slot.name, slot.shape) for slot in own.others] != [(slot.name, slot.shape) for slot in server.others]:
            raise PeerError("tensors beside the LoRA factors differ from the server's")
        if own.by_module.keys() != server.by_module.keys():
            odd = min(own.by_module.keys() ^ server.by_module.keys())
            raise PeerError(f"module {odd!r} is not adapted on both ends")
        for mine, theirs in zip(own.pairs, server.pairs, strict=True):
            if (mine.d_in, mine.d_out) != (theirs.d_in, theirs.d_out):
                raise PeerError(
                    f"'{mine.module}' is {mine.d_out} x {mine.d_in}, expected {theirs.d_out} x {theirs.d_in}"
                )
            if fault := ranks.fault(mine, theirs):
                raise PeerError(fault)

    def _check_frozen(self, side: Side) -> None:
        for pair in self.geometry.pairs:
            if self.delta.flat[pair.slot(side).part].any():
                raise PeerError(f"{side} of '{pair.module}' has changed, but is frozen in this round")


@dataclass(frozen=True)
class RankRange:
    """The ranks that a rule takes beside the server's; with lower ones clients may have their own scale, too."""

    lower: bool
    higher: bool

    def fault(self, client: Pair, server: Pair) -> str:
        """Which rank or scale of a client the rule cannot take; empty if it can."""
        if (client.rank < server.rank and not self.lower) or (client.rank > server.rank and not self.higher):
            at_most = "at most " if self.lower else ""
            return f"rank of '{client.module}' is {client.rank}, expected {at_most}{server.rank}"
        if not self.lower and client.scale != server.scale:
            return f"scale of '{client.module}' is {client.scale:g}, expected {server.scale:g}"
        return ""


ONE_RANK = RankRange(lower=False, higher=False)
UP_TO_SERVER = RankRange(lower=True, higher=False)
ANY_RANK = RankRange(lower=True, higher=True)


Memory = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class RoundContext:
    """What is known when a round begins.

    Attributes:
        round: its number, from 1.
        master: the server's adapter; clients received it, or what `low_rank.fitted` made of it for their rank.
        initial: the adapter that the run began with, in the master's layout.
        cohort: the distinct geometries that clients of this round may have; empty where all have the master's.
        memory: the rule's state from the previous round; empty at first.
    """

    round: int
    master: AdapterState
    geometry: Geometry
    initial: AdapterState
    seed: int = 0
    cohort: tuple[Geometry, ...] = ()
    memory: Memory = field(default_factory=dict[str, NDArray[np.generic]])

    @property
    def one_rank(self) -> bool:
        """Whether all clients have the master's geometry."""
        return not self.cohort


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a round.

    Attributes:
        step: to be added to the master.
        figures: numbers for the ledger, for example what a truncation has lost.
        slope: of the clients' losses along the server's last movement where it ended, mean over those that measured it,
            as a part of the most that a local step may predict; None if none has; set by the caller.
    """

    step: AdapterState
    memory: Memory = field(default_factory=dict[str, NDArray[np.generic]])
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    slope: float | None = None


class Accumulator(Protocol):
    """A round in progress."""

    def add(self, contribution: Contribution) -> None:
        """Add one client's delta.

        Raises:
            PeerError: it is invalid, or this rule cannot take it; nothing was changed.
        """
        ...

    def finish(self) -> Outcome:
        """The outcome of the whole cohort.

        Raises:
            ValueError: nothing was added.
        """
        ...


@dataclass(frozen=True)
class ParameterTraffic:
    """Parameters that one client sends and receives in a round; the mean where rounds differ."""

    uplink: float
    downlink: float


Algorithm = Callable[[RoundContext], Accumulator]
"""Begins a round. Where it is a frozen dataclass, its fields are the rule's options."""


class Exactness(StrEnum):
    """How the product after a round relates to the weighted mean of scale_k B_k A_k over the cohort."""

    EXACT = "exact"
    UP_TO_TRUNCATION = "up to truncation"
    INEXACT = "inexact"


class Resizing(StrEnum):
    """How a client of another rank gets its adapter from the master: the parameter of `low_rank.fitted`."""

    SLICE = "slice"
    """The leading rows of A and columns of B."""
    BEST = "best"
    """The best product of its rank, in balanced factors with the largest singular values first."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A way to combine updates.

    Attributes:
        name: what the user gives to ``--rule``.
        title: the paper, with its arXiv number.
        computes: one line: what the result is, and where it is not the exact mean.
        linear: whether the weighted sum of the deltas is enough for it, as under secure aggregation.
        frozen: the side that no client trains, round by round and then from the start again: ``(Side.A,)`` freezes A in
            every round, ``(Side.A, Side.B)`` A in odd and B in even rounds. Empty where both sides train.
        personal: the side that stays at the client and is never sent, or None.
        continuous: whether the step is a small change of the factors. If they are rotated, a server optimizer on raw
            factors makes no sense.
        needs_all: whether memory grows with the cohort.
        keeps_nearest: whether it is a mean of those updates alone that are nearest to others. Short ones are, so that a
            client of longer steps is left out; learning rates that clients find stay as found.
        least_clients: the smallest cohort in which a robust rule withstands a bad client; 1 for all other rules.
        origin: the function or class that a user's own rule was made from; None for plait's own.
    """

    name: str
    title: str
    computes: str
    algorithm: Algorithm
    subject: Subject = Subject.FACTORS
    exactness: Exactness = Exactness.INEXACT
    linear: bool = False
    ranks: RankRange = ONE_RANK
    resizing: Resizing = Resizing.SLICE
    frozen: tuple[Side, ...] = ()
    personal: Side | None = None
    continuous: bool = True
    needs_all: bool = False
    keeps_nearest: bool = False
    least_clients: int = 1
    origin: Callable[..., object] | None = field(default=None, compare=False)

    @property
    def mixed_ranks(self) -> bool:
        """Whether clients may have other ranks than the server."""
        return self.ranks.lower

    @property
    def higher_ranks(self) -> bool:
        """Whether these may be higher than the server's, too."""
        return self.ranks.higher

    def trained(self, round_number: int) -> frozenset[Side]:
        """The sides that clients train in a round; they send all but the personal one."""
        return BOTH_SIDES - self._frozen_in(round_number)

    def new_factors(self, *, one_rank: bool) -> bool:
        """Whether each round has new factors, rather than those before plus a small step, as cuts for several ranks."""
        return not self.continuous or (self.resizing is Resizing.BEST and not one_rank)

    @property
    def needs(self) -> Reasons:
        """What a run must have for it (`plait.settings.traits`)."""
        needs: dict[Trait, str] = {}
        if self.subject is Subject.FACTORS:
            needs[Trait.FACTORS] = "it combines them"
        if self.subject is Subject.SQUARES:
            needs[Trait.SQUARES] = "only these have an exact mean"
        if not self.mixed_ranks:
            needs[Trait.ONE_RANK] = "it averages tensors directly"
        return needs

    def removes(self, *, one_rank: bool) -> Reasons:
        """What a run with it does not have; see `new_factors`."""
        removes: dict[Trait, str] = {}
        if not self.linear:
            removes[Trait.LINEAR] = "this rule needs the updates one by one"
        if self.new_factors(one_rank=one_rank):
            to_whom = "" if self.new_factors(one_rank=True) else " to clients of several ranks"
            removes[Trait.SAME_FACTORS] = f"this rule gives other factors{to_whom} in every round"
        if self.trained(1) != self.trained(2):
            removes[Trait.SAME_SIDES] = "this rule has others trained in every round"
        if self.personal:
            removes[Trait.ALL_SHARED] = f"with this rule {self.personal} stays at the client"
        return removes

    def traffic(self, client: Geometry) -> ParameterTraffic:
        """What a client of these ranks sends and receives in a round, before any codec; all of it where it rotates."""
        rounds = range(1, 1 + max(1, len(self.frozen)))
        sent = mean(size_of(slices_of(client, self.trained(number) - {self.personal})) for number in rounds)
        return ParameterTraffic(sent, sent if self.continuous else client.layout.size)

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round, whose accumulator refuses what the rule cannot aggregate."""
        self.check_adapter(context.geometry)
        return _CheckedRound(self, context, self._frozen_in(context.round))

    def check_adapter(self, server: Geometry) -> None:
        """Refuse an adapter of the wrong kind."""
        if self.subject is Subject.SQUARES and server.pairs:
            raise ConfigError(
                f"rule is '{self.name}' but '{server.pairs[0].module}' trains A and B, expected an adapter of square "
                "matrices between fixed factors (LoRA-XS): only these have an exact mean"
            )
        if self.subject is Subject.FACTORS and not server.pairs:
            raise ConfigError(
                f"rule is '{self.name}' but the adapter has no factors A and B, expected a method that trains them, or "
                "a rule that does without (--rule list has both)"
            )

    def with_options(self, given: Mapping[str, str]) -> "Rule":
        """The rule with some of its options set."""
        return replace(self, algorithm=with_options(self.algorithm, given, what=f"rule '{self.name}'"))

    def _frozen_in(self, round_number: int) -> frozenset[Side]:
        return frozenset({self.frozen[(round_number - 1) % len(self.frozen)]} if self.frozen else ())


class _CheckedRound:
    """A round that checks each contribution before its algorithm sees it, and keeps the master's personal side."""

    def __init__(self, rule: Rule, context: RoundContext, frozen: frozenset[Side]) -> None:
        self._rule, self._context, self._frozen = rule, context, frozen
        self._accumulator = rule.algorithm(context)
        self._is_empty = True

    def add(self, contribution: Contribution) -> None:
        contribution.check(self._context.geometry, ranks=self._rule.ranks, frozen=self._frozen)
        self._accumulator.add(contribution)
        self._is_empty = False

    def finish(self) -> Outcome:
        if self._is_empty:
            raise ValueError("no update was added")
        outcome = self._accumulator.finish()
        if self._rule.personal is None:
            return outcome
        return replace(outcome, step=without(outcome.step, self._context.geometry, {self._rule.personal}))
