"""A masked sum as it is wanted and as it is taken: numbers, figures that are summed beside them, and whose they are.

No figure counts a client's data, and all clients' means count equally. In groups a member moves its own group's mean
alone, which can be compared with the others': one that is left in moves the round's mean by at most `FAR` times what
groups usually lie apart, over the number of groups. A sum of fewer clients reveals more of each, so no group is small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.adapters.safetensors import decode_arrays, encode_arrays
from plait.errors import PeerError
from plait.guarantees import LEAST_CLIENTS, LEAST_GROUPS, threshold_of
from plait.ledger.events import MeanScore
from plait.rounds.evaluation import ClientLoss, margin_of
from plait.system.json_text import read_json


@dataclass(frozen=True)
class WantedSum:
    """A sum to take, of numbers made from the adapter with the digest `received`.

    `least` clients of each group must offer keys, and `quorum` be in the sum if that is more than the threshold.
    """

    run_id: bytes
    purpose: str
    round: int
    bits: int
    unit: float
    size: int
    figures: int
    received: bytes
    least: int = LEAST_CLIENTS
    quorum: int = 0
    noised: bool = False
    groups: int = 1

    @property
    def least_groups(self) -> int:
        """Without so many groups there is no sum: with fewer than three no mean lies apart from others."""
        return 1 if self.groups == 1 else max(LEAST_GROUPS, threshold_of(self.groups))


@dataclass(frozen=True, eq=False)
class GroupSum:
    """The sum of one group: of these clients' numbers, lifted from the ring, and of their figures."""

    numbers: NDArray[np.int32]
    figures: NDArray[np.uint64]
    clients: tuple[str, ...]

    @property
    def mean(self) -> Float32:
        """Of its clients."""
        return self.numbers.astype(np.float32) / np.float32(len(self.clients))


@dataclass(frozen=True, eq=False)
class Summed:
    """The sum of a round, of the groups' sums lifted from the ring; none of `clients` are in one that is lost.

    Attributes:
        invited: clients that the grid was made for.
        length: root mean square of the norms of the groups' means, in units.
        deviation: the largest root mean square of a group's numbers.
    """

    numbers: NDArray[np.int32]
    figures: NDArray[np.uint64]
    clients: tuple[str, ...]
    invited: int
    bits: int
    unit: float
    groups: int = 1
    length: float = 0.0
    deviation: float = 0.0

    @classmethod
    def of(cls, parts: Sequence[GroupSum], wanted: WantedSum, *, invited: int) -> Summed:
        """The sum of these groups' sums; zero of none."""
        numbers, figures = np.zeros(wanted.size, np.int32), np.zeros(wanted.figures, np.uint64)
        for part in parts:
            numbers, figures = numbers + part.numbers, figures + part.figures
        squares = [float(np.square(part.numbers, dtype=np.float64).sum()) for part in parts]
        lengths = [square / len(part.clients) ** 2 for square, part in zip(squares, parts, strict=True)]
        return cls(
            numbers,
            figures,
            tuple(sorted(name for part in parts for name in part.clients)),
            invited,
            wanted.bits,
            wanted.unit,
            len(parts),
            math.sqrt(sum(lengths) / max(len(parts), 1)),
            math.sqrt(max(squares, default=0.0) / max(wanted.size, 1)),
        )

    def to_bytes(self) -> bytes:
        """For the run directory."""
        names = ("invited", "bits", "unit", "groups", "length", "deviation")
        stored = {"clients": list(self.clients)} | {name: getattr(self, name) for name in names}
        arrays: dict[str, NDArray[np.generic]] = {
            "numbers": self.numbers.view(np.uint32),
            "figures": self.figures.view(np.int64),
        }
        return encode_arrays(arrays, {"sum": json.dumps(stored)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Summed:
        """The inverse of `to_bytes`."""
        try:
            arrays, metadata = decode_arrays(data)
            stored = cast("dict[str, Any]", read_json(metadata["sum"]))
            numbers = arrays["numbers"].astype(np.uint32).view(np.int32)
            figures = arrays["figures"].astype(np.int64).view(np.uint64)
            return cls(numbers, figures, tuple(stored.pop("clients")), **stored)
        except (KeyError, ValueError, TypeError) as error:
            raise PeerError("the stored sum of a round is damaged") from error


def sum_file(purpose: str) -> str:
    """Under which a round's sum is stored, beside the names of clients."""
    return f"secagg-{purpose}-sum"


FAR = 3.0
"""A group is left out whose mean is this many times as far from the median of all means as the median group."""


def distances(means: Sequence[Float32]) -> tuple[float, ...]:
    """How far each (size,) mean, of three or more, lies from the median of all, over the median of these distances."""
    middle = np.median(np.stack(means), axis=0)
    far = [float(np.linalg.norm(mean - middle)) for mean in means]
    usual = float(np.median(far))
    return tuple(each / usual if usual else 1.0 if not each else np.inf for each in far)


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
    sums = {f"metric {place}": value for place, value in shared.metric_sums.items()}
    return _score_figures(shared) | own_figures | sums


def scores_of(sums: Mapping[str, float], *, clients: int) -> tuple[MeanScore, MeanScore | None]:
    """The mean over clients of the shared adapter's figures, and of their own adapters' where all have one."""
    own = _mean_of(sums, "own_", clients) if sums["own_scored"] == clients else None
    return _mean_of(sums, "", clients), own


def _score_figures(loss: ClientLoss) -> dict[str, float]:
    figures = {"scored": 1.0, "loss": loss.loss}
    if loss.loss_error is not None:
        figures |= {"known": 1.0, "squares": loss.loss_error**2}
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
            f"the sums of {clients} clients are of {of['scored']:g} losses and {of['known']:g} errors: one of "
            "them sent impossible figures"
        )
    if not 0 <= of["accuracy"] <= of["classified"]:
        raise PeerError(
            f"the sum of {of['classified']:g} accuracies is {of['accuracy']:g}: one of the clients sent "
            "impossible figures"
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
