"""What clients tell of themselves in a masked sum: losses and counts, of which the server learns the sums alone.

They are whole numbers modulo 2^64: a figure is multiplied by its scale and rounded. Knows no mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from plait.errors import PeerError
from plait.rounds.evaluation import ClientLoss, margin_of, wilson
from plait.rounds.events import MeanScore

# 16,384 clients' together stay within 2^63.
_LARGEST = 1 << 48

TRAINING: Mapping[str, int] = {"clients": 1, "examples": 1, "tokens": 1, "loss": 1 << 32, "square": 1 << 16}
"""The figures of a client's training and their scales; `loss` is its mean, `square` of its delta's norm in units."""

NOISED: Mapping[str, int] = {"clients": 1, "within": 1}
"""The same where clients add noise: who took part, and a noised count of those within the clip norm."""

_SCORE: Mapping[str, int] = {
    "scored": 1,
    "tokens": 1,
    "loss": 1 << 20,
    "known": 1,
    "squares": 1 << 8,
    "moved": 1,
    "change": 1 << 20,
    "change_known": 1,
    "change_squares": 1 << 8,
    "classified": 1,
    "correct": 1,
    "rewarded": 1,
    "reward": 1 << 20,
}
EVALUATION: Mapping[str, int] = {"clients": 1, "examples": 1} | {
    f"{prefix}{name}": scale for prefix in ("", "own_") for name, scale in _SCORE.items()
}
"""The figures of a client's evaluation; losses, changes and standard errors are multiplied by its tokens."""


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
    return {"clients": 1, "examples": shared.examples} | _score_figures(shared) | own_figures


def scores_of(sums: Mapping[str, float]) -> tuple[MeanScore, MeanScore | None]:
    """The mean of the shared adapter, and of the clients' own where all have one; nobody's single figures.

    Raises:
        PeerError: no clients' figures have these sums.
    """
    own = _mean_of(sums, "own_") if sums["own_scored"] == sums["clients"] else None
    return _mean_of(sums, ""), own


def _score_figures(loss: ClientLoss) -> dict[str, float]:
    tokens = loss.tokens
    figures = {"scored": 1.0, "tokens": float(tokens), "loss": loss.loss * tokens}
    if loss.error is not None:
        figures |= {"known": 1.0, "squares": (loss.error * tokens) ** 2}
    if loss.change is not None:
        figures |= {"moved": 1.0, "change": loss.change * tokens}
    if loss.change_error is not None:
        figures |= {"change_known": 1.0, "change_squares": (loss.change_error * tokens) ** 2}
    if loss.correct is not None:
        figures |= {"classified": float(loss.examples), "correct": float(loss.correct)}
    if loss.reward_margin is not None:
        figures |= {"rewarded": float(loss.examples), "reward": loss.reward_margin * loss.examples}
    return figures


def _mean_of(sums: Mapping[str, float], prefix: str) -> MeanScore:
    of = {name: sums[prefix + name] for name in _SCORE}
    tokens, clients, freedom = of["tokens"], sums["clients"], sums["examples"] - sums["clients"]
    if tokens < 1 or not 0 <= of["correct"] <= max(of["classified"], 0):
        raise PeerError(
            f"the clients' sums are {tokens:g} tokens and {of['correct']:g} right of {of['classified']:g} answers, "
            "expected what clients can have: one of them sent figures that are none"
        )

    def margin(known: str, squares: str) -> float | None:
        return margin_of(math.sqrt(max(of[squares], 0.0)) / tokens, freedom) if of[known] == clients else None

    return MeanScore(
        reward_margin=of["reward"] / of["rewarded"] if of["rewarded"] else None,
        loss=of["loss"] / tokens,
        loss_margin=margin("known", "squares"),
        change=of["change"] / tokens if of["moved"] == clients else None,
        change_margin=margin("change_known", "change_squares"),
        accuracy=of["correct"] / of["classified"] if of["classified"] else None,
        accuracy_interval=wilson(int(of["correct"]), int(of["classified"])) if of["classified"] else None,
    )
