"""How far the result of a round is from the exact mean, and how far the clients are from each other.

Measured on the product scale * B A of each module, over all modules together in Frobenius norm, through QR of factors.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from plait.adapters import AdapterState, Float32, Layout, norm
from plait.aggregation.geometry import Geometry, Pair
from plait.aggregation.low_rank import LowRank, common_cores
from plait.aggregation.rule import Contribution, Outcome, RoundContext
from plait.aggregation.sums import ExactMean, SliceSum, landing
from plait.ledger.events import RuleDiagnostics


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

    def add(self, contribution: Contribution, *, drift: float, size: float | None = None) -> None:
        """Note one client's delta, its norm if known, and the norm of the change of its products or outputs."""
        self._weights[contribution.client] = contribution.weight
        self._drift[contribution.client] = drift
        self._norms[contribution.client] = norm(contribution.delta) if size is None else size

    def diagnostics(
        self,
        *,
        size: float,
        moved: float,
        error: float,
        covariance: float,
        ranks: Sequence[float],
        inputs: int | None = None,
    ) -> RuleDiagnostics:
        """The figures of the round: of the exact mean its size, distances from other models, and ranks by module."""
        total = self.weight
        drifts = sum(self._weights[client] * drift for client, drift in self._drift.items())
        return RuleDiagnostics(
            exact_norm=size,
            error=error / size if size else 0.0,
            covariance=covariance / size if size else 0.0,
            effective_rank=sum(ranks) / len(ranks) if ranks else 0.0,
            agreement=moved * total / drifts if drifts else 0.0,
            drift=self._drift,
            update_norms=self._norms,
            modules=len(ranks),
            inputs=inputs,
        )


class Observer:
    """Gathers the figures of one round, of so many modules, spread evenly over the adapter; of all if None."""

    def __init__(self, context: RoundContext, *, modules: int | None = None) -> None:
        self._names = frozenset(pair.module for pair in _spread(context.geometry, modules))
        self._context = replace(context, geometry=self._of_interest(context.geometry))
        self._exact = ExactMean(self._context)
        # A rank above the server's fits here: the mean of padded factors must not lose anything.
        self._slices = SliceSum(self._of_interest(_widest(context)))
        self._changes = ClientChanges()

    def add(self, contribution: Contribution, *, size: float | None = None) -> None:
        """Measure one client's delta, after the rule has taken it; of a part (`of_modules`) give the `size` of all."""
        geometry = self._of_interest(contribution.geometry)
        self._exact.add(replace(contribution, geometry=geometry))
        received, delta = contribution.received.flat, contribution.delta.flat
        trained = geometry.trained(received, delta)
        square = 0.0
        for pair in geometry.pairs:
            self._slices.add(pair, trained, contribution.weight)
            square += _change(pair, received, delta) ** 2
        self._changes.add(contribution, drift=math.sqrt(square), size=size)

    def finish(self, outcome: Outcome) -> RuleDiagnostics:
        """The figures."""
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


def of_modules(contribution: Contribution, modules: int) -> Contribution:
    """The part of a contribution that an observer of so many modules looks at, copied."""
    pairs = _spread(contribution.geometry, modules)
    layout = Layout.of({slot.name: slot.shape for pair in pairs for slot in (pair.a, pair.b)})
    received, delta = (
        AdapterState.from_tensors(layout, {slot.name: state[slot.name] for slot in layout.slots})
        for state in (contribution.received, contribution.delta)
    )
    here = tuple(replace(pair, a=layout.by_name[pair.a.name], b=layout.by_name[pair.b.name]) for pair in pairs)
    return replace(contribution, received=received, delta=delta, geometry=Geometry(layout, here, ()))


def _spread(geometry: Geometry, modules: int | None) -> tuple[Pair, ...]:
    pairs = geometry.pairs
    if modules is None or modules >= len(pairs):
        return pairs
    return tuple(pairs[i * len(pairs) // modules] for i in range(modules))


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
