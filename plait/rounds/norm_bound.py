"""The largest allowed update: a bound that follows the updates of this round and of recent ones.

Four figures are bounded separately. `A` and `B` are the root mean squares of the change of all factors of that
side, so adapters of different ranks compare. They catch the gauge attack, (B / c)(c A), which is honest in its product
but makes the mean of the factors as large as c. `product` is the Frobenius norm of the change of all scale * B A, and
catches factors that are each within their bounds but conspire. `other` is the root mean square of everything else.

A figure may be at most `factor` times the median of the round's figures and of the medians of recent rounds; zeros (a
frozen side, an update that the wire rounded to nothing) do not count. So a minority of attackers cannot move the bound
beyond honest figures. It does not depend on who answered first. Knows neither rules nor files.

Weights of updates by their clients' examples: proportional, within a bound.

A client's number of examples cannot be checked, so none weighs more than ten times the median of its round. Of two
middle values the smaller is the median, so that one of two clients cannot move it. Ten, as for norms:
wide enough for clients with very different amounts of data, and no single claim can dominate the mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32
from plait.aggregation import Geometry, Side

Norms: TypeAlias = Mapping[str, float]
"""The figures of one update, or the medians of a round, by name; see the module's docstring."""

FIGURES = (Side.A.value, Side.B.value, "product", "other")

HISTORY = 5
"""Number of rounds whose medians are remembered."""

# With fewer figures a median cannot tell which one is the outlier.
_FEWEST = 3
_TRIES = 64


class NormPolicy(StrEnum):
    """What happens to an update beyond the bound."""

    REJECT = "reject"
    CLIP = "clip"
    OFF = "off"


@dataclass(frozen=True)
class NormBound:
    """The bound of a run.

    Attributes:
        factor: largest allowed multiple of the median, more than 1.
    """

    policy: NormPolicy = NormPolicy.REJECT
    factor: float = 10.0

    @classmethod
    def named(cls, text: str) -> NormBound:
        """The bound that `--norm-bound` names: ``10``, ``clip:10`` or ``off``."""
        if text == NormPolicy.OFF:
            return cls(NormPolicy.OFF)
        clip, _, factor = text.rpartition(":")
        return cls(NormPolicy.CLIP if clip else NormPolicy.REJECT, float(factor))

    def limits(self, cohort: Collection[Norms], history: Sequence[Norms]) -> Norms:
        """The largest value of each figure; infinite if there are too few to tell."""
        if self.policy is NormPolicy.OFF:
            return dict.fromkeys(FIGURES, math.inf)
        limits: dict[str, float] = {}
        for figure in FIGURES:
            values = [norms[figure] for norms in (*cohort, *history) if norms.get(figure)]
            limits[figure] = self.factor * float(np.median(values)) if len(values) >= _FEWEST else math.inf
        return limits


def measure(delta: AdapterState, received: AdapterState, geometry: Geometry) -> dict[str, float]:
    """The figures of an update.

    Args:
        delta: of one client, finite.
    """
    return _measure(delta.flat, received.flat, geometry)


def beyond(norms: Norms, limits: Norms) -> str | None:
    """The first figure beyond its limit, as text; None if all are within."""
    for figure in FIGURES:
        if not norms[figure] <= limits[figure]:
            return f"norm of {figure} is {norms[figure]:.4g}, expected at most {limits[figure]:.4g}"
    return None


def clipped(delta: AdapterState, received: AdapterState, geometry: Geometry, limits: Norms) -> AdapterState:
    """The delta, scaled down until every figure is within its limit; unchanged if all are."""
    norms = measure(delta, received, geometry)
    if beyond(norms, limits) is None:
        return delta
    flat = delta.flat
    for _ in range(_TRIES):
        # Factors scale linearly, the product between linearly and quadratically. Rounding needs a small margin.
        linear = [limits[figure] / norms[figure] for figure in FIGURES if norms[figure] and figure != "product"]
        product = math.sqrt(limits["product"] / norms["product"]) if norms["product"] else 1.0
        flat = flat * np.float32((1 - 1e-3) * min(1.0, product, *linear))
        norms = _measure(flat, received.flat, geometry)
        if beyond(norms, limits) is None:
            return AdapterState(delta.layout, flat)
    return AdapterState.zeros(delta.layout)


def remembered(history: Sequence[Norms], accepted: Collection[Norms], limits: Norms) -> tuple[Norms, ...]:
    """The history after a round: the medians of the folded updates are added; clipped figures count as their limit."""
    medians: dict[str, float] = {}
    for figure in FIGURES:
        values = [min(norms[figure], limits[figure]) for norms in accepted if norms[figure]]
        medians[figure] = float(np.median(values)) if values else 0.0
    return (*history, medians)[-HISTORY:]


def _measure(delta: Float32, received: Float32, geometry: Geometry) -> dict[str, float]:
    squares = dict.fromkeys(FIGURES, 0.0)
    for pairs in geometry.alike:
        views = pairs.a_of(received), pairs.a_of(delta), pairs.b_of(received), pairs.b_of(delta)
        a, da, b, db = (np.asarray(view, np.float64, order="C") for view in views)
        b += db
        da_da, db_db = da @ _turned(da), _turned(db) @ db
        squares[Side.A.value] += float(np.trace(da_da, axis1=1, axis2=2).sum())
        squares[Side.B.value] += float(np.trace(db_db, axis1=1, axis2=2).sum())
        # ||(B + dB)(A + dA) - B A||^2 = ||(B + dB) dA + dB A||^2, from the inner products of thin factors.
        inner = (_turned(b) @ b) * da_da + 2 * (_turned(b) @ db) * (da @ _turned(a)) + db_db * (a @ _turned(a))
        squares["product"] += float(pairs.scales**2 @ np.maximum(inner.sum(axis=(1, 2)), 0.0))
    squares["other"] = _square(geometry.others_of(delta).astype(np.float64))
    sizes = {side.value: geometry.side_size(side) for side in Side}
    sizes |= {"product": 1, "other": geometry.others_size}
    return {figure: math.sqrt(squares[figure] / sizes[figure]) if sizes[figure] else 0.0 for figure in FIGURES}


def _turned(each: NDArray[np.float64]) -> NDArray[np.float64]:
    return each.transpose(0, 2, 1)


def _square(values: NDArray[np.float64]) -> float:
    flat = values.ravel()
    return float(flat @ flat)


WEIGHT_RATIO = 10.0
"""The largest weight, as a multiple of the round's median."""


def bounded(examples: Mapping[str, int]) -> dict[str, float]:
    """The weights of a round's clients.

    Args:
        examples: of each client, as its update states them; at least one client.
    """
    limit = WEIGHT_RATIO * statistics.median_low(examples.values())
    return {client: min(float(count), limit) for client, count in examples.items()}
