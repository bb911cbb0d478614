"""An aggregation rule: an algorithm, and the properties that the rest of plait needs.

A rule is a value. It states only the traits that differ from the defaults, which are FedAvg's on low-rank factors; the
sides that clients train and what travels follow from them. To add one: a file here and a line in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import mean

import numpy as np

from plait.adapters import AdapterState, Subject
from plait.aggregation.contribution import ONE_RANK, Contribution, Ranks
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.round import Accumulator, Outcome, RoundContext
from plait.aggregation.traffic import Traffic, parameters
from plait.choice import with_options
from plait.errors import ConfigError
from plait.traits import Reasons, Trait

Algorithm = Callable[[RoundContext], Accumulator]
"""Begins a round. Where it is a frozen dataclass, its fields are the rule's options."""


class Exactness(StrEnum):
    """How the product after a round relates to the weighted mean of scale_k B_k A_k over the cohort."""

    EXACT = "exact"
    UP_TO_TRUNCATION = "up to truncation"
    INEXACT = "inexact"


class Resizing(StrEnum):
    """How a client of another rank gets its adapter from the master: the parameter of `projection.fitted`."""

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
        computes: one line that says what the result is, and where it is not the exact mean.
        subject: the kind of adapter that it works on.
        linear: whether the weighted sum of the deltas is enough for it, so that it works under secure
            aggregation.
        ranks: the ranks that clients may have besides the server's.
        resizing: how clients of another rank get their adapter.
        frozen: the side that no client trains, round by round and then from the start again: ``(Side.A,)`` freezes A in
            every round, ``(Side.A, Side.B)`` A in odd and B in even rounds. Empty where both sides train.
        personal: the side that stays at the client and is never sent, or None.
        continuous: whether the step is a small change of the factors. If not (its factors are
            rotated), a server optimizer on raw factors makes no sense.
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
    ranks: Ranks = ONE_RANK
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
        """Whether each round has new factors, rather than those of the previous round plus a small step.

        Args:
            one_rank: whether all clients have one rank; cutting a product for several ranks rotates all factors.
        """
        return not self.continuous or (self.resizing is Resizing.BEST and not one_rank)

    @property
    def needs(self) -> Reasons:
        """What a run must have for it (`plait.traits`)."""
        needs: dict[Trait, str] = {}
        if self.subject is Subject.FACTORS:
            needs[Trait.FACTORS] = "it combines them"
        if self.subject is Subject.SQUARES:
            needs[Trait.SQUARES] = "only these have an exact mean"
        if not self.mixed_ranks:
            needs[Trait.ONE_RANK] = "it averages tensors directly"
        return needs

    def takes(self, *, one_rank: bool) -> Reasons:
        """What a run with it does not have; see `new_factors`."""
        takes: dict[Trait, str] = {}
        if not self.linear:
            takes[Trait.LINEAR] = "this rule needs the updates one by one"
        if self.new_factors(one_rank=one_rank):
            to_whom = "" if self.new_factors(one_rank=True) else " to clients of several ranks"
            takes[Trait.SAME_FACTORS] = f"this rule gives other factors{to_whom} in every round"
        if self.trained(1) != self.trained(2):
            takes[Trait.SAME_SIDES] = "this rule has others trained in every round"
        if self.personal:
            takes[Trait.ALL_SHARED] = f"with this rule {self.personal} stays at the client"
        return takes

    def traffic(self, client: Geometry) -> Traffic:
        """What a client of these ranks sends and receives in a round, before any codec; all of it where it rotates."""
        rounds = range(1, 1 + max(1, len(self.frozen)))
        sent = mean(parameters(client, self.trained(number) - {self.personal}) for number in rounds)
        return Traffic(sent, sent if self.continuous else parameters(client))

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round, whose accumulator refuses what the rule cannot aggregate.

        Raises:
            ConfigError: the rule does not support this adapter.
        """
        self.check_adapter(context.geometry)
        return _Round(self, context, self._frozen_in(context.round))

    def check_adapter(self, server: Geometry) -> None:
        """Refuse an adapter of the wrong kind.

        Raises:
            ConfigError: it has factors and should have none, or the other way round.
        """
        if self.subject is Subject.SQUARES and server.pairs:
            raise ConfigError(
                f"rule is '{self.name}' but '{server.pairs[0].module}' trains A and B, expected an adapter of square "
                "matrices between fixed factors (LoRA-XS): only these have an exact mean"
            )
        if self.subject is Subject.FACTORS and not server.pairs:
            raise ConfigError(
                f"rule is '{self.name}' but the adapter has no factors A and B, expected a method that trains them, or "
                "a rule that does without (plait rules lists both)"
            )

    def with_options(self, given: Mapping[str, str]) -> Rule:
        """The rule with some of its options set.

        Raises:
            ConfigError: it has no such option, or the value is out of range.
        """
        return replace(self, algorithm=with_options(self.algorithm, given, what=f"rule '{self.name}'"))

    def _frozen_in(self, round_number: int) -> frozenset[Side]:
        return frozenset({self.frozen[(round_number - 1) % len(self.frozen)]} if self.frozen else ())


class _Round:
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
        flat = np.array(outcome.step.flat)
        for pair in self._context.geometry.pairs:
            slot = pair.slot(self._rule.personal)
            flat[slot.offset : slot.offset + slot.size] = 0.0
        return replace(outcome, step=AdapterState(outcome.step.layout, flat))
