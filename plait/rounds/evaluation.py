"""Held-out losses: the mean of a client, the mean of a federation, and the uncertainty of each.

A client evaluates the same sequences in every round. It sends their mean loss and its change since before round 1, each
with its standard error; the losses of single sequences stay at the client.

Intervals are at 95 % and reflect the choice of sequences within each client; the clients are fixed (stratified
sampling, with the linearised variance of a ratio and Satterthwaite's degrees of freedom: Cochran, "Sampling
Techniques", 3rd edition, chapters 5 and 6). For accuracies they are Wilson's (1927).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from plait.ledger.events import ClientScore, MeanScore
from plait.system.text import read_json
from plait.wire.messages import Evaluation

if TYPE_CHECKING:
    from plait.rounds.metrics import RunMetrics

Sums = Mapping[int, float]
"""What a run's metrics add up, by place; 0 at all other places."""
# With fewer sequences there is no standard error: it would be rough, and with two it would reveal both losses.
_FEWEST = 4
_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below it


@dataclass(frozen=True)
class SequenceLosses:
    """A model's losses on held-out sequences, one by one; never leaves the machine.

    Attributes:
        losses: of each sequence, cross-entropy in nats summed over its tokens (over the one label of an example).
        counts: number of tokens (labels) in each sum.
        leads: of preferences, the reward of each pair's chosen reply less that of the rejected one.
            Otherwise empty.
        clusters: the document or group of each sequence, by number; empty where each is independent of the others.
        metric_sums: what the run's metrics add up.
    """

    losses: tuple[float, ...]
    counts: tuple[int, ...]
    correct: int | None = None
    digest: str = ""
    leads: tuple[float, ...] = ()
    clusters: tuple[int, ...] = ()
    metric_sums: Sums = field(default_factory=dict[int, float])

    @property
    def loss(self) -> float:
        """Mean over tokens (over examples for classification), in nats."""
        return math.fsum(self.losses) / self.tokens

    @property
    def tokens(self) -> int:
        """Tokens that the mean is over."""
        return sum(self.counts)

    @property
    def examples(self) -> int:
        """Sequences."""
        return len(self.counts)

    def since(self, before: SequenceLosses | None) -> ClientLoss:
        """The client's report, relative to the losses `before`; None, or other sequences, if those are unknown."""
        change = change_error = None
        if before is not None and (before.digest, before.counts) == (self.digest, self.counts):
            moved = [after - early for after, early in zip(self.losses, before.losses, strict=True)]
            change, change_error, _ = _mean_and_error(moved, self.counts, self.clusters)
        loss, error, clusters = _mean_and_error(self.losses, self.counts, self.clusters)
        correct, margin = self.correct, None
        if self.leads:
            # Where rewards are equal, as before any training, neither reply is preferred: half of these count.
            won, equal = sum(lead > 0 for lead in self.leads), sum(lead == 0 for lead in self.leads)
            correct, margin = won + equal // 2, math.fsum(self.leads) / self.examples
        worth, sizes = clusters if self.clusters else None, (self.tokens, self.examples)
        return ClientLoss(loss, *sizes, correct, error, change, change_error, margin, worth, self.metric_sums)

    def to_bytes(self) -> bytes:
        """For this machine's own memory."""
        leads = [self.leads] if self.leads or self.metric_sums else []
        sums = [sorted(self.metric_sums.items())] if self.metric_sums else []
        return json.dumps([self.losses, self.counts, self.correct, self.digest, *leads, *sums]).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> SequenceLosses | None:
        """The inverse of `to_bytes`; None for anything else."""
        try:
            losses, counts, correct, digest, *more = cast("list[Any]", read_json(data))
            leads, sums = (*more, (), ())[:2]
            floats, ints = tuple(map(float, losses)), tuple(map(int, counts))
            known = cls(floats, ints, correct, digest, tuple(leads), metric_sums=dict(sums))
        except (ValueError, TypeError):
            return None
        return known if known.to_bytes() == data and len(known.losses) == len(known.counts) > 0 else None


@dataclass(frozen=True)
class ClientLoss:
    """Held-out loss of one client.

    Attributes:
        loss: mean cross-entropy in nats, over tokens (language model) or examples (classification).
        correct: correct answers, for classification; of preferences, those whose reward has the right order.
        loss_error: standard error of the loss over sequences; None if there are too few.
        reward_margin: of preferences, the mean lead of the chosen reply's reward; otherwise None.
        clusters: of equal size, that the sequences are worth; None where each is one.
        metric_sums: what the run's metrics add up.
    """

    loss: float
    tokens: int
    examples: int
    correct: int | None = None
    loss_error: float | None = None
    change: float | None = None
    change_error: float | None = None
    reward_margin: float | None = None
    clusters: int | None = None
    metric_sums: Sums = field(default_factory=dict[int, float])

    @property
    def worth(self) -> int:
        """How many independent sequences or clusters the errors are worth."""
        return self.clusters or self.examples

    @property
    def margin(self) -> float | None:
        """Half of the loss's 95 % interval."""
        return margin_of(self.loss_error, self.worth - 1)

    @property
    def change_margin(self) -> float | None:
        """Half of the change's 95 % interval."""
        return margin_of(self.change_error, self.worth - 1)


def mean_loss(by_client: Mapping[str, ClientLoss], metrics: RunMetrics | None = None) -> MeanScore:
    """The mean over all held-out tokens, and every client's own figures; unknown figures are None."""
    clients = list(by_client.values())
    total = sum(entry.tokens for entry in clients)
    moved = [
        _Stratum(each.change, each.change_error, each.tokens, each.worth) for each in clients if each.change is not None
    ]
    # The change over some of the clients would not be that of the mean.
    all_moved = len(moved) == len(clients)
    classified = [(entry.correct, entry.examples) for entry in clients if entry.correct is not None]
    correct, examples = sum(correct for correct, _ in classified), sum(examples for _, examples in classified)
    return MeanScore(
        loss=math.fsum(entry.loss * entry.tokens for entry in clients) / total,
        loss_margin=_stratified_margin(
            [_Stratum(each.loss, each.loss_error, each.tokens, each.worth) for each in clients]
        ),
        change=math.fsum(each.mean * each.tokens for each in moved) / total if all_moved else None,
        change_margin=_stratified_margin(moved) if all_moved else None,
        accuracy=correct / examples if classified else None,
        accuracy_interval=wilson(correct, examples) if classified else None,
        reward_margin=_mean_reward_margin(clients),
        **metric_figures(metrics, *(entry.metric_sums for entry in clients)),
        by_client={name: _score(entry, metrics) for name, entry in sorted(by_client.items())},
    )


FIGURES = ("loss", "correct", "loss_error", "change", "change_error", "reward_margin", "metric_sums")
"""What an evaluation holds of the shared adapter, and, with ``own_`` before each name, of the client's own."""


def client_losses(reply: Evaluation) -> tuple[ClientLoss, ClientLoss | None]:
    """A client's figures for the shared adapter, and for its own if it has one."""

    def figures_of(prefix: str) -> ClientLoss:
        figures: dict[str, Any] = {name: getattr(reply, prefix + name) for name in FIGURES}
        return ClientLoss(tokens=reply.tokens, examples=reply.examples, clusters=reply.clusters, **figures)

    return figures_of(""), None if reply.own_loss is None else figures_of("own_")


def evaluation_of(client: str, number: int, shared: ClientLoss, own: ClientLoss | None) -> Evaluation:
    """The figures as a client sends them: the inverse of `client_losses`."""
    figures: dict[str, Any] = {name: getattr(shared, name) for name in FIGURES}
    if own is not None:
        figures |= {f"own_{name}": getattr(own, name) for name in FIGURES}
    sizes = {"tokens": shared.tokens, "examples": shared.examples, "clusters": shared.clusters}
    return Evaluation(client=client, round=number, **sizes, **figures)


def wilson(correct: int, examples: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a proportion (J. Am. Stat. Assoc. 22, 1927)."""
    part, square = correct / examples, _Z * _Z
    middle = (part + square / (2 * examples)) / (1 + square / examples)
    half = _Z / (1 + square / examples) * math.sqrt(part * (1 - part) / examples + square / (4 * examples**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def together(parts: Iterable[Sums]) -> Sums:
    """The sum over clients, or batches."""
    total: dict[int, float] = {}
    for part in parts:
        for place, value in part.items():
            total[place] = total.get(place, 0.0) + value
    return total


def metric_figures(metrics: RunMetrics | None, *sums: Sums) -> dict[str, Any]:
    """The figures of a score that the run's metrics add, by the sums of one or more clients."""
    if not (metrics and metrics.names):
        return {}
    figures, confusion = metrics.figures(together(sums))
    return {"metrics": figures, "confusion": confusion}


def _score(entry: ClientLoss, metrics: RunMetrics | None) -> ClientScore:
    return ClientScore(
        loss=entry.loss,
        tokens=entry.tokens,
        sequences=entry.examples,
        loss_margin=entry.margin,
        change=entry.change,
        change_margin=entry.change_margin,
        accuracy=None if entry.correct is None else entry.correct / entry.examples,
        accuracy_interval=None if entry.correct is None else wilson(entry.correct, entry.examples),
        reward_margin=entry.reward_margin,
        **metric_figures(metrics, entry.metric_sums),
    )


def _mean_reward_margin(clients: Sequence[ClientLoss]) -> float | None:
    """The mean over all preferences; None if not all clients have some."""
    margins = [(each.reward_margin, each.examples) for each in clients if each.reward_margin is not None]
    if not margins or len(margins) < len(clients):
        return None
    return sum(margin * examples for margin, examples in margins) / sum(examples for _, examples in margins)


def _mean_and_error(
    sums: Sequence[float], counts: Sequence[int], clusters: Sequence[int] = ()
) -> tuple[float, float | None, int]:
    """Mean per token, its standard error for a sample of clusters, and how many equal clusters these are worth.

    A ratio of two sums, linearised where each sequence is a cluster of its own. Otherwise by the jackknife, which
    leaves out one cluster after another: for few clusters of unequal size the linearised error is too small.
    """
    x, c = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    mean = math.fsum(sums) / sum(counts)
    if clusters:
        _, at = np.unique(np.asarray(clusters), return_inverse=True)
        x, c = np.bincount(at, x), np.bincount(at, c)
    worth = int(c.sum() ** 2 / (c**2).sum() + 1e-9) if clusters else len(sums)
    if worth < _FEWEST:
        return mean, None, max(1, worth)
    with np.errstate(all="ignore"):
        if clusters:
            squares = float((((x - mean * c) / (1 - c / c.sum())) ** 2).sum())
            return mean, math.sqrt(squares * (len(x) - 1) / len(x)) / sum(counts), worth
        squares = float(((x - mean * c) ** 2).sum())
    return mean, math.sqrt(squares * len(sums) / (len(sums) - 1)) / sum(counts), worth


@dataclass(frozen=True)
class _Stratum:
    """One client's mean; `error` is None if unknown."""

    mean: float
    error: float | None
    tokens: int
    worth: int


def _stratified_margin(strata: Sequence[_Stratum]) -> float | None:
    """Half of the 95 % interval of the mean over all tokens; None if too little is known of it."""
    total = sum(each.tokens for each in strata)
    mean = math.fsum(each.mean * each.tokens for each in strata) / total
    variances = [((each.error * each.tokens / total) ** 2, each.worth - 1) for each in strata if each.error is not None]
    # For a client with too few sequences only its distance from the mean is known. That includes the differences
    # between clients, so the interval is too wide rather than too narrow.
    alone = [each for each in strata if each.error is None]
    if alone:
        if len(strata) == 1:
            return None
        squares = math.fsum(((each.mean - mean) * each.tokens / total) ** 2 for each in alone)
        variances.append((squares * len(strata) / (len(strata) - 1), len(strata) - 1))
    variance = math.fsum(each for each, _ in variances)
    if not variance:
        return 0.0
    freedom = variance**2 / math.fsum(each**2 / degrees for each, degrees in variances)
    return margin_of(math.sqrt(variance), freedom)


def margin_of(error: float | None, freedom: float) -> float | None:
    """Half of a 95 % interval by Student's distribution, expanded in 1 / freedom (Abramowitz and Stegun, 26.7.5)."""
    if error is None or freedom < _FEWEST - 1 - 1e-9:
        return None
    z = _Z
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return error * sum(term / freedom**power for power, term in enumerate(terms))
