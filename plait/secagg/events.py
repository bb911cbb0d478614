"""What the ledger says of masked sums, the figures that are summed beside updates, and what masks hide, in words.

Clients differ from round to round, and sums over different clients are equations: of what stays the same they can be
solved. So no figure counts a client's data, and all clients' means count equally. A figure is multiplied by its scale
and rounded, modulo 2^64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from plait.errors import PeerError
from plait.guarantees.thresholds import colluding
from plait.rounds.evaluation import ClientLoss, margin_of
from plait.rounds.events import Count, Event, MeanScore, Number

if TYPE_CHECKING:
    from plait.adapters import Json


class SumUnmasked(Event):
    """The masks were taken off a sum over a group of clients; nothing else of what they sent is known.

    Attributes:
        round: that it belongs to.
        purpose: ``train`` or ``evaluate``.
        invited: clients asked for keys. roster: that offered some. shared: that shared their secrets.
        clients: whose numbers are in the sum.
        threshold: fewest clients that a sum is unmasked for.
        neighbours: of each client, with whom it shares masks.
        bits: of each number.
        unit: size of the grid that updates were rounded to.
        certified: whether all clients proved their node keys to each other by certificates.
        noised: whether each client added its share of the noise of differential privacy.
        evaluated_by: names of the clients, of a sum of losses.
    """

    event = "sum_unmasked"
    is_public = True
    round: Count
    purpose: str = ""
    invited: Count = 0
    roster: Count = 0
    shared: Count = 0
    clients: Count
    threshold: Count = 0
    neighbours: Count = 0
    bits: Count = 0
    unit: Number = 0.0
    certified: bool = False
    noised: bool = False
    evaluated_by: tuple[str, ...] = ()


class GroupLeftOut(Event):
    """The mean of a group lies far from those of the other groups, so its sum does not count.

    One of its clients at least may depart from the protocol. `distance` is from the median of the groups' means, over
    the median of these distances.
    """

    event = "group_left_out"
    is_public = True
    purpose: ClassVar[str] = "train"
    round: Count
    clients: tuple[str, ...]
    distance: Number


class EvaluationMissed(Event):
    """The masked sum of the losses after `round` is impossible, lost or unavailable; `detail` says why."""

    event = "evaluation_missed"
    is_public = True
    round: Count
    detail: str = ""


# 16,384 clients' together stay within 2^63.
_LARGEST = 1 << 48

TRAINING: Mapping[str, int] = {"square": 1 << 16}
"""The figures of a client's training and their scales: the square of its delta's norm in units."""

NOISED: Mapping[str, int] = {"within": 1}
"""The same where clients add noise: a noised count of those within the clip norm."""

_SCORE: Mapping[str, int] = {
    "scored": 1,
    "loss": 1 << 32,
    "known": 1,
    "squares": 1 << 40,
    "moved": 1,
    "change": 1 << 32,
    "change_known": 1,
    "change_squares": 1 << 40,
    "classified": 1,
    "accuracy": 1 << 32,
    "accuracy_squares": 1 << 40,
    "rewarded": 1,
    "reward": 1 << 32,
}
EVALUATION: Mapping[str, int] = {f"{prefix}{name}": scale for prefix in ("", "own_") for name, scale in _SCORE.items()}
"""The figures of a client's evaluation: means over its own sequences, squares of their standard errors, and which of
these it has."""

_LEAST_FREEDOM = 3
"""Degrees of freedom of a client's standard error, which it has from four sequences on."""


def encode_figures(values: Mapping[str, float], scales: Mapping[str, int]) -> NDArray[np.uint64]:
    """A client's figures, (len(scales),); those that are missing are 0."""
    found: list[int] = []
    for name, scale in scales.items():
        value = values.get(name, 0.0) * scale
        found.append(max(-_LARGEST, min(_LARGEST, round(value))) if math.isfinite(value) else 0)
    return np.array(found, np.int64).astype(np.uint64)


def decode_figures(sums: NDArray[np.uint64], scales: Mapping[str, int]) -> dict[str, float]:
    """The sums of clients' figures, by name."""
    signed = sums.astype(np.int64)
    return {name: int(number) / scale for (name, scale), number in zip(scales.items(), signed, strict=True)}


def evaluation_figures(shared: ClientLoss, own: ClientLoss | None) -> dict[str, float]:
    """The figures of a client's evaluation, by name."""
    own_figures = {f"own_{name}": value for name, value in _score_figures(own).items()} if own else {}
    return _score_figures(shared) | own_figures


def scores_of(sums: Mapping[str, float], *, clients: int) -> tuple[MeanScore, MeanScore | None]:
    """The mean over clients of the shared adapter's figures, and of their own adapters' where all have one."""
    own = _mean_of(sums, "own_", clients) if sums["own_scored"] == clients else None
    return _mean_of(sums, "", clients), own


def _score_figures(loss: ClientLoss) -> dict[str, float]:
    figures = {"scored": 1.0, "loss": loss.loss}
    if loss.error is not None:
        figures |= {"known": 1.0, "squares": loss.error**2}
    if loss.change is not None:
        figures |= {"moved": 1.0, "change": loss.change}
    if loss.change_error is not None:
        figures |= {"change_known": 1.0, "change_squares": loss.change_error**2}
    if loss.correct is not None:
        part = (loss.correct + 1) / (loss.examples + 2)  # so that none or all correct is not taken for certain
        square = part * (1 - part) / loss.examples
        figures |= {"classified": 1.0, "accuracy": loss.correct / loss.examples, "accuracy_squares": square}
    if loss.reward_margin is not None:
        figures |= {"rewarded": 1.0, "reward": loss.reward_margin}
    return figures


def _mean_of(sums: Mapping[str, float], prefix: str, clients: int) -> MeanScore:
    of = {name: sums[prefix + name] for name in _SCORE}
    flags = [of[name] for name in ("known", "moved", "change_known", "classified", "rewarded")]
    if of["scored"] != clients or not all(0 <= flag <= clients for flag in flags):
        raise PeerError(
            f"the sums of {clients} clients are of {of['scored']:g} losses and {of['known']:g} errors, expected what "
            "clients can have: one of them sent figures that are none"
        )
    if not 0 <= of["accuracy"] <= of["classified"]:
        raise PeerError(
            f"the sum of {of['classified']:g} accuracies is {of['accuracy']:g}, expected what clients can have: one of "
            "them sent figures that are none"
        )

    def mean(known: str, name: str) -> float | None:
        return of[name] / clients if of[known] == clients else None

    def margin(known: str, squares: str) -> float | None:
        error = math.sqrt(max(of[squares], 0.0)) / clients
        return margin_of(error, _LEAST_FREEDOM * clients) if of[known] == clients else None

    accuracy, about = mean("classified", "accuracy"), margin("classified", "accuracy_squares")
    return MeanScore(
        reward_margin=mean("rewarded", "reward"),
        loss=of["loss"] / clients,
        loss_margin=margin("known", "squares"),
        change=mean("moved", "change"),
        change_margin=margin("change_known", "change_squares"),
        accuracy=accuracy,
        accuracy_interval=None
        if accuracy is None or about is None
        else (max(0.0, accuracy - about), min(1.0, accuracy + about)),
    )


MASKED_NOT_COVERED: tuple[str, ...] = (
    "the sum itself, and adapters made from it: masks add no noise, so they tell as much as the sum does",
    "who took part, when, and that a client failed",
    "clients that send nonsense: no single update can be inspected",
)
"""What masks say nothing about."""

_PROVEN = (
    "proven by every client to every other with its certificate; anyone who holds the authority's key could make up "
    "clients: keep it offline, away from the server"
)
_SIMULATED = "one operator holds all keys of a simulation: it shows costs and results and protects no one"
_HIDDEN = "each client's update and losses, which left it under masks, and its counts, which did not leave it"


@dataclass(frozen=True)
class MaskedCard:
    """What masks hide in a run, as far as the run has come.

    Attributes:
        least: clients in the smallest of its sums.
        colluding: clients that could help the server without showing it another's part.
    """

    sums: int
    least: int
    colluding: int
    certified: bool
    noised: bool = False

    title: ClassVar[str] = "Secure aggregation"
    warning: ClassVar[str] = ""
    headline: ClassVar[str] = ""
    trust: ClassVar[tuple[str, str]] = ("Sums under masks", "The server saw sums of updates, and no update alone. ")
    hides_clients: ClassVar[bool] = True
    status: ClassVar[Mapping[str, Json]] = {}

    def line(self, event: Event) -> str:
        """Nothing: a sum is unmasked in every round."""
        del event
        return ""

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What is hidden, from whom, and what is not, fact by fact."""
        return (
            ("Hidden", _HIDDEN),
            ("From", f"the server, and up to {self.colluding} clients together with it"),
            ("Learned", f"{self.sums} sums, none of fewer than {self.least} clients"),
            ("Kept to", "one sum with a client's update in each round and one with its losses, whatever failed"),
            ("Keys", _PROVEN) if self.certified else ("Simulated", _SIMULATED),
            *(("Not covered", text) for text in MASKED_NOT_COVERED[int(self.noised) :]),
        )


def after(card: MaskedCard | None, event: Event) -> MaskedCard | None:
    """The card of a run once one more event is known; None before the first sum."""
    if not isinstance(event, SumUnmasked):
        return card
    one = MaskedCard(1, event.clients, colluding(event.roster), event.certified, event.noised)
    return (
        one
        if card is None
        else MaskedCard(
            card.sums + 1,
            min(card.least, one.least),
            min(card.colluding, one.colluding),
            card.certified and one.certified,
            card.noised and one.noised,
        )
    )
