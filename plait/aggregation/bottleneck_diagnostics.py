"""How far the result of a round of bottleneck adapters is from the exact mean, on a few random inputs.

A bottleneck is not linear, so the mean of the parameters is another function than the mean of the functions.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from plait.adapters import AdapterSpec, Float32, TensorSlot
from plait.adapters.bottleneck import Bottleneck, activation_of, bottlenecks_of
from plait.aggregation.diagnostics import ClientChanges, effective_rank
from plait.aggregation.low_rank import Float64
from plait.aggregation.rule import Contribution, Outcome, RoundContext
from plait.aggregation.sums import landing
from plait.ledger.events import RuleDiagnostics

_INPUTS = 32

Activation = Callable[[Float64], Float64]


_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": lambda x: x * ndtr(x),
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
}


class BottleneckObserver:
    """Gathers the figures of one round of bottlenecks, as `Observer` does for factors."""

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

    def add(self, contribution: Contribution, *, size: float | None = None) -> None:
        """Measure one client's delta, of this norm if known, after the rule has taken it."""
        received = contribution.received.flat
        trained = received + contribution.delta.flat
        weight = contribution.weight
        square = 0.0
        outputs = zip(self._outputs(received), self._outputs(trained), strict=True)
        for number, (before, after) in enumerate(outputs):
            self._exact[number] += weight * after
            square += float(np.square(after - before).sum())
        self._parameters += weight * trained.astype(np.float64)
        self._changes.add(contribution, drift=math.sqrt(square / _INPUTS), size=size)

    def finish(self, outcome: Outcome) -> RuleDiagnostics:
        """The figures."""
        total = self._changes.weight
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
    return flat[slot.part].reshape(slot.shape).astype(np.float64)
