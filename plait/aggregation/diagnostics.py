"""How far the result of a round is from the exact mean, and how far the clients are from each other.

For any rule: feed it the same contributions in the same order, then the outcome. Everything is measured on the product
scale * B A of each module, over all modules together in Frobenius norm, through QR of factors; all modules cost about
what FlexLoRA costs. Tensors that are not factors count in the update norms only.

A bottleneck is not linear, so the mean of the parameters is another function than the mean of the functions. Both are
compared on a few random inputs of unit variance, drawn anew from the run's seed in every round: an estimate, because
the server has no data. A module's outputs on these inputs, per input, stand in the place of its product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterSpec, Float32, TensorSlot, norm
from plait.adapters.bottleneck import Bottleneck, activation_of, bottlenecks_of
from plait.aggregation.geometry import Geometry, Pair
from plait.aggregation.low_rank import Float64, LowRank, common_cores
from plait.aggregation.rule import Contribution, Outcome, RoundContext
from plait.aggregation.sums import ExactMean, SliceSum, landing


@dataclass(frozen=True)
class Diagnostics:
    """Figures of one round; 0 where everything is 0.

    Attributes:
        exact_norm: Frobenius norm of the exact weighted mean of scale_k B_k A_k, over all measured modules.
        error: distance of the round's result from it, relative to `exact_norm`.
        covariance: distance of the product of the mean factors (padded, where ranks are mixed) from it, relative to
            `exact_norm`: the error from averaging B and A separately.
        effective_rank: exponential of the entropy of the singular values of the exact mean (Roy and Vetterli, 2007),
            the mean over modules; near 1 where one direction dominates.
        agreement: Frobenius norm of the change of the exact mean, relative to the mean of the clients' own changes: 1
            where all clients move alike, 1 / sqrt(clients) where they move at right angles to each other.
        drift: by client, Frobenius norm of the change of its product.
        update_norms: by client, Euclidean norm of its delta over all tensors.
        modules: the number of measured modules.
        inputs: of bottleneck adapters, the number of random inputs on which outputs were compared in the place of
            products; None for factors.
    """

    exact_norm: float
    error: float
    covariance: float
    effective_rank: float
    agreement: float
    drift: Mapping[str, float]
    update_norms: Mapping[str, float]
    modules: int
    inputs: int | None = None


class ClientChanges:
    """How much each client of a round changed, and the figures that follow from it."""

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}
        self._drift: dict[str, float] = {}
        self._norms: dict[str, float] = {}

    @property
    def weight(self) -> float:
        """Of all clients together."""
        return sum(self._weights.values())

    def add(self, contribution: Contribution, *, drift: float) -> None:
        """Note one client's delta, and the norm of the change of its products or outputs."""
        self._weights[contribution.client] = contribution.weight
        self._drift[contribution.client] = drift
        self._norms[contribution.client] = norm(contribution.delta)

    def diagnostics(
        self,
        *,
        size: float,
        moved: float,
        error: float,
        covariance: float,
        ranks: Sequence[float],
        inputs: int | None = None,
    ) -> Diagnostics:
        """The figures of the round: of the exact mean its size, distances from other models, and ranks by module."""
        total = self.weight
        drifts = sum(self._weights[client] * drift for client, drift in self._drift.items())
        return Diagnostics(
            exact_norm=size,
            error=error / size if size else 0.0,
            covariance=covariance / size if size else 0.0,
            effective_rank=sum(ranks) / len(ranks) if ranks else 0.0,
            agreement=moved * total / drifts if drifts else 0.0,
            drift=dict(self._drift),
            update_norms=dict(self._norms),
            modules=len(ranks),
            inputs=inputs,
        )


class Observer:
    """Gathers the figures of one round.

    Args:
        modules: measure this many, spread evenly over the adapter; all if None.
    """

    def __init__(self, context: RoundContext, *, modules: int | None = None) -> None:
        pairs = context.geometry.pairs
        if modules is not None and modules < len(pairs):
            pairs = tuple(pairs[i * len(pairs) // modules] for i in range(modules))
        self._names = frozenset(pair.module for pair in pairs)
        self._context = replace(context, geometry=self._of_interest(context.geometry))
        self._exact = ExactMean(self._context)
        # A rank above the server's fits here: the mean of padded factors must not lose anything.
        self._slices = SliceSum(self._of_interest(_widest(context)))
        self._changes = ClientChanges()

    def add(self, contribution: Contribution) -> None:
        """Measure one client's delta, after the rule has taken it."""
        geometry = self._of_interest(contribution.geometry)
        self._exact.add(replace(contribution, geometry=geometry))
        received, delta = contribution.received.flat, contribution.delta.flat
        trained = geometry.trained(received, delta)
        square = 0.0
        for pair in geometry.pairs:
            self._slices.add(pair, trained, contribution.weight)
            square += _change(pair, received, delta) ** 2
        self._changes.add(contribution, drift=math.sqrt(square))

    def finish(self, outcome: Outcome) -> Diagnostics:
        """The figures.

        Raises:
            ValueError: nothing was added.
        """
        landed = landing(outcome.step, self._context.master)
        squares = np.zeros(4)
        ranks: list[float] = []
        for pair in self._context.geometry.pairs:
            result = _product(pair, landed)
            widest = self._slices.pair(pair.module)
            of_means = LowRank(*self._slices.mean_of_all(widest)).scaled(widest.scale)
            before = _product(pair, self._context.master.flat)
            exact, *others = common_cores([self._exact.product(pair), before, result, of_means])
            squares += [np.square(core).sum() for core in (exact, *(exact - other for other in others))]
            ranks.append(effective_rank(np.linalg.svd(exact, compute_uv=False).astype(np.float64)))
        size, moved, error, covariance = map(float, np.sqrt(squares))
        return self._changes.diagnostics(size=size, moved=moved, error=error, covariance=covariance, ranks=ranks)

    def _of_interest(self, geometry: Geometry) -> Geometry:
        return Geometry(geometry.layout, tuple(pair for pair in geometry.pairs if pair.module in self._names), ())


def _widest(context: RoundContext) -> Geometry:
    """The geometry with the largest ranks, of server and cohort."""
    return max((context.geometry, *context.cohort), key=lambda geometry: sum(pair.rank for pair in geometry.pairs))


def _product(pair: Pair, flat: Float32) -> LowRank:
    return LowRank(pair.scale * pair.b_of(flat).astype(np.float64), pair.a_of(flat).astype(np.float64))


def _change(pair: Pair, received: Float32, delta: Float32) -> float:
    """Norm of scale * ((B + dB)(A + dA) - B A) = scale * ((B + dB) dA + dB A)."""
    b, a = pair.b_of(received).astype(np.float64), pair.a_of(received).astype(np.float64)
    db, da = pair.b_of(delta).astype(np.float64), pair.a_of(delta).astype(np.float64)
    return pair.scale * LowRank(np.hstack([b + db, db]), np.vstack([da, a])).norm()


def effective_rank(s: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Exponential of the entropy of singular values s (Roy and Vetterli, 2007); 0 where all are 0."""
    total = float(s.sum())
    shares = s[s > 0] / total if total else s[:0]
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


_INPUTS = 32

Activation = Callable[[Float64], Float64]


def _gelu(x: Float64) -> Float64:
    # numpy has no erf.
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).ravel().tolist()), np.float64, count=x.size)
    return 0.5 * x * (1 + erf.reshape(x.shape))


def _silu(x: Float64) -> Float64:
    # x times the logistic function of x, which cannot overflow this way.
    return 0.5 * x * (1 + np.tanh(0.5 * x))


_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": _gelu,
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": _silu,
    "tanh": np.tanh,
}


class BottleneckObserver:
    """Gathers the figures of one round, as `Observer` does for factors.

    Args:
        spec: of the master, an adapter of bottlenecks; all clients have the same.
        modules: measure this many, spread evenly over the adapter; all if None.
    """

    def __init__(self, context: RoundContext, spec: AdapterSpec, *, modules: int | None = None) -> None:
        found = bottlenecks_of(spec.layout)
        if modules is not None and modules < len(found):
            found = tuple(found[i * len(found) // modules] for i in range(modules))
        self._bottlenecks = found
        self._context = context
        self._activation = _ACTIVATIONS[activation_of(spec)]
        generator = np.random.default_rng([context.seed, context.round])
        self._inputs = {each.module: generator.standard_normal((_INPUTS, each.width)) for each in found}
        self._exact = [np.zeros((_INPUTS, each.width)) for each in found]
        self._parameters: Float64 = np.zeros(spec.layout.size)
        self._changes = ClientChanges()

    def add(self, contribution: Contribution) -> None:
        """Measure one client's delta, after the rule has taken it."""
        received = contribution.received.flat
        trained = received + contribution.delta.flat
        weight = contribution.weight
        square = 0.0
        outputs = zip(self._outputs(received), self._outputs(trained), strict=True)
        for number, (before, after) in enumerate(outputs):
            self._exact[number] += weight * after
            square += float(np.square(after - before).sum())
        self._parameters += weight * trained.astype(np.float64)
        self._changes.add(contribution, drift=math.sqrt(square / _INPUTS))

    def finish(self, outcome: Outcome) -> Diagnostics:
        """The figures.

        Raises:
            ValueError: nothing was added.
        """
        total = self._changes.weight
        if not total:
            raise ValueError("no contribution was added")
        exact = [outputs / total for outputs in self._exact]
        averaged = self._outputs((self._parameters / total).astype(np.float32))
        size, moved, error, covariance = (
            math.sqrt(sum(float(np.square(a - b).sum()) for a, b in zip(exact, others, strict=True)) / _INPUTS)
            for others in (
                [np.zeros_like(each) for each in exact],
                self._outputs(self._context.master.flat),
                self._outputs(landing(outcome.step, self._context.master)),
                averaged,
            )
        )
        ranks = [effective_rank(np.linalg.svd(each, compute_uv=False).astype(np.float64)) for each in exact]
        return self._changes.diagnostics(
            size=size, moved=moved, error=error, covariance=covariance, ranks=ranks, inputs=_INPUTS
        )

    def _outputs(self, flat: Float32) -> list[Float64]:
        """W_up f(W_down x + b_down) + b_up of every measured module, (inputs, width)."""
        return [self._output(each, flat) for each in self._bottlenecks]

    def _output(self, bottleneck: Bottleneck, flat: Float32) -> Float64:
        inner = self._inputs[bottleneck.module] @ _of(bottleneck.down, flat).T + _of(bottleneck.down_bias, flat)
        return self._activation(inner) @ _of(bottleneck.up, flat).T + _of(bottleneck.up_bias, flat)


def _of(slot: TensorSlot, flat: NDArray[np.float32]) -> Float64:
    return flat[slot.offset : slot.offset + slot.size].reshape(slot.shape).astype(np.float64)
