"""What clients tell of themselves in a masked sum: numbers modulo 2^64, of which the server learns the sums alone.

Clients differ from round to round, and sums over different clients are equations: of what stays the same they can be
solved. So no figure counts a client's data, and all clients' means count equally. A figure is
multiplied by its scale and rounded. Knows no mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from plait.errors import PeerError
from plait.rounds.evaluation import ClientLoss, margin_of
from plait.rounds.events import MeanScore

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
    """The mean over clients of the shared adapter's figures, and of their own adapters' where all have one.

    Raises:
        PeerError: no clients' figures have these sums.
    """
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
