"""What every aggregation rule is: a pass over the updates of one round that ends in a step of the adapter.

A rule sees decoded float32 deltas and weights, never bytes, sockets or files. It is pure: what it must know of earlier
rounds it gives out as plain arrays and gets back in the next. Updates come in client order, one at a time, so that
memory does not grow with the cohort unless the rule says that it needs all updates at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState
from plait.aggregation.base_delta import BaseDelta
from plait.aggregation.contribution import Contribution
from plait.aggregation.geometry import Geometry, Side
from plait.aggregation.traffic import Traffic
from plait.errors import ConfigError, did_you_mean

Memory = Mapping[str, NDArray[np.generic]]


class Exactness(StrEnum):
    """How the product after a round relates to the weighted mean of scale_k B_k A_k over the cohort."""

    EXACT = "exact"
    UP_TO_TRUNCATION = "up to truncation"
    INEXACT = "inexact"


class Subject(StrEnum):
    """What kind of adapter a rule works on."""

    TENSORS = "any tensors"
    FACTORS = "factors A and B"
    SQUARES = "square matrices between fixed factors"


class Handing(StrEnum):
    """How a client of another rank gets its adapter from the master: the parameter of `projection.fitted`."""

    SLICE = "slice"
    """The leading rows of A and columns of B."""
    BEST = "best"
    """The best product of its rank, in balanced factors with the largest singular values first."""


@dataclass(frozen=True, eq=False)
class RoundContext:
    """What is known when a round begins.

    Attributes:
        round: its number, from 1.
        master: the server's adapter; clients received it, or what `projection.fitted` made of it for their rank.
        geometry: of the master.
        initial: the adapter that the run began with, in the master's layout.
        seed: of the run.
        cohort: the distinct geometries that clients of this round may have; empty where all have the master's.
        memory: what the rule kept from the round before; empty at first.
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
    """What a round comes to.

    Attributes:
        step: to be added to the master.
        base: to be merged into the frozen base; None for rules that leave it alone.
        memory: for the next round.
        figures: numbers for the ledger, for example a certified bound of the error.
        client_square: weighted mean of the squared norms of the clients' deltas; whoever folds the round fills it in.
    """

    step: AdapterState
    base: BaseDelta | None = None
    memory: Memory = field(default_factory=dict[str, NDArray[np.generic]])
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    client_square: float = 0.0


class Accumulator(Protocol):
    """One round under way."""

    def add(self, contribution: Contribution) -> None:
        """Take in one client's delta.

        Raises:
            PeerError: it makes no sense, or not to this rule; nothing was changed.
        """
        ...

    def finish(self) -> Outcome:
        """The outcome of the whole cohort.

        Raises:
            ValueError: nothing was added.
        """
        ...


class Rule(Protocol):
    """A way to combine updates.

    Attributes:
        name: what the user gives to ``--rule``.
        title: the paper, with its arXiv number.
        computes: one line that says what the result is, and where it is not the exact mean.
        subject: the kind of adapter that it works on.
        exactness: of the product.
        linear: whether it needs no more of the cohort than the weighted sum of the deltas, and so works under secure
            aggregation.
        mixed_ranks: whether clients may have other ranks than the server.
        higher_ranks: whether these may be higher than the server's, too.
        moves_base: whether an outcome can have a `base`.
        needs_all: whether memory grows with the cohort.
        least_clients: the smallest cohort in which the rule is what it says; robust rules stand no bad client in less.
        continuous: whether the step is a small change of the factors as they are; where it is not (the adapter starts
            anew, or its factors are turned), a server optimizer on raw factors makes no sense.
        personal: the side that stays at the client and is never sent, or None.
        handing: how clients of another rank get their adapter.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def title(self) -> str:
        """See above."""
        ...

    @property
    def computes(self) -> str:
        """See above."""
        ...

    @property
    def subject(self) -> Subject:
        """See above."""
        ...

    @property
    def exactness(self) -> Exactness:
        """See above."""
        ...

    @property
    def linear(self) -> bool:
        """See above."""
        ...

    @property
    def mixed_ranks(self) -> bool:
        """See above."""
        ...

    @property
    def higher_ranks(self) -> bool:
        """See above."""
        ...

    @property
    def moves_base(self) -> bool:
        """See above."""
        ...

    @property
    def needs_all(self) -> bool:
        """See above."""
        ...

    @property
    def least_clients(self) -> int:
        """See above."""
        ...

    @property
    def continuous(self) -> bool:
        """See above."""
        ...

    @property
    def personal(self) -> Side | None:
        """See above."""
        ...

    @property
    def handing(self) -> Handing:
        """See above."""
        ...

    def trained(self, round_number: int) -> frozenset[Side]:
        """The sides that clients train in a round; they send these but for the personal one."""
        ...

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round.

        Raises:
            ConfigError: the adapter is none that this rule can work on.
        """
        ...

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:
        """What a client of `client`'s ranks sends and receives in a round of `clients` such clients."""
        ...


def turns(rule: Rule, *, one_rank: bool) -> bool:
    """Whether a rule's factors are other ones in every round, not those before and a small step.

    Args:
        rule: of the run.
        one_rank: whether all clients have one; what is cut anew for each of several turns all.
    """
    return not rule.continuous or (rule.handing is Handing.BEST and not one_rank)


def rule_named(name: str, rules: Mapping[str, Rule]) -> Rule:
    """The rule called `name`.

    Args:
        name: as the user writes it.
        rules: all that there are, by name.

    Raises:
        ConfigError: there is none.
    """
    rule = rules.get(name)
    if rule is None:
        raise ConfigError(f"rule is '{name}', expected one of {', '.join(rules)}{did_you_mean(name, rules)}")
    return rule
