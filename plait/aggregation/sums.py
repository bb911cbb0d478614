"""Sums over the clients of a round that rules and diagnostics build on, in float64. Knows no rule."""

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32
from plait.aggregation.geometry import Geometry, Pair
from plait.aggregation.low_rank import Float64, LowRank
from plait.aggregation.rule import Contribution, RoundContext


def step_to(wanted: NDArray[np.float64], master: AdapterState) -> AdapterState:
    """What to add to `master` to get `wanted`, (size,), as near as float32 allows."""
    return AdapterState(master.layout, (wanted - master.flat).astype(np.float32))


def landing(step: AdapterState, master: AdapterState) -> Float32:
    """The flat buffer of the master after `step`, with the rounding of the addition."""
    return master.flat + step.flat


# A block of all that is held back, widened to 8 bytes, is 3 MiB: it stays in the caches, and OpenBLAS does not wake its
# threads for it, which on a busy machine takes a hundred times as long.
_BLOCK_ELEMENTS = 3 << 14
_HELD_BACK = 8


class WeightedSum:
    """Sum of weight * values over all calls of `add`, at memory bandwidth.

    A float64 accumulator must be read and written for each delta: four times the traffic of the delta itself. So a few
    are held back and summed together, block by block in the processor's cache, in the order of the calls.
    """

    def __init__(self, size: int) -> None:
        self._sum: NDArray[np.float64] = np.zeros(size, np.float64)
        self._wide: NDArray[np.float64] = np.empty((_HELD_BACK, min(size, _BLOCK_ELEMENTS)), np.float64)
        self._waiting: list[tuple[Float32, float]] = []
        self.weight = 0.0

    def add(self, values: Float32, weight: float) -> None:
        """Add `weight` times `values`, (size,), which must not change until `total` or `mean` is called."""
        self._waiting.append((values, weight))
        self.weight += weight
        if len(self._waiting) == _HELD_BACK:
            self._fold()

    def total(self) -> NDArray[np.float64]:
        """The sum, (size,)."""
        self._fold()
        return self._sum

    def mean(self) -> NDArray[np.float64]:
        """The sum over the sum of weights, (size,)."""
        return np.divide(self.total(), self.weight)

    def _fold(self) -> None:
        if not self._waiting:
            return
        weights = np.array([weight for _, weight in self._waiting])
        for start in range(0, len(self._sum), _BLOCK_ELEMENTS):
            block = self._sum[start : start + _BLOCK_ELEMENTS]
            wide = self._wide[: len(self._waiting), : len(block)]
            for row, (values, _) in zip(wide, self._waiting, strict=True):
                row[:] = values[start : start + len(block)]
            block += weights @ wide
        self._waiting.clear()


class OrderFreeSum:
    """A sum of values in whatever order, as long as it `is_exact`: then it has the bits of `WeightedSum`'s.

    No addition in float64 is rounded while all values are multiples of one unit and their sums stay below 2^53 units.
    """

    def __init__(self, size: int) -> None:
        self._sum = WeightedSum(size)
        self._least, self._greatest = 255, 0  # exponents of float32, biased

    def add(self, values: Float32) -> None:
        """Add (size,) finite values, which must not change until `mean` is called."""
        self._sum.add(values, 1.0)
        for start in range(0, values.size, _BLOCK_ELEMENTS):
            bits = values[start : start + _BLOCK_ELEMENTS].view(np.uint32) << np.uint32(1)  # signs are gone
            self._greatest = max(self._greatest, int(bits.max()) >> 24)
            # Zeros, which are multiples of everything, become the largest of all.
            self._least = min(self._least, (int((bits - np.uint32(1)).min()) + 1) >> 24)

    @property
    def is_exact(self) -> bool:
        """Whether no order of the additions can have rounded."""
        # A value of exponent e is a multiple of 2^(e - 150) below 2^(e - 126); those of 0 are subnormal.
        return self._sum.weight <= 2.0 ** (53 - 24 - self._greatest + max(self._least, 1))

    def mean(self) -> NDArray[np.float64]:
        """The sum over the number of calls, (size,)."""
        return self._sum.mean()


class SliceSum:
    """Weighted sums of the factors of clients of different ranks, slice by slice, in the server's layout.

    Slice i is row i of A and column i of B. Factors are converted to the server's scale: scale_k B_k A_k = scale (f
    B_k)(f A_k) with f = sqrt(scale_k / scale).
    """

    def __init__(self, server: Geometry) -> None:
        self._server = server
        self._sum: NDArray[np.float64] = np.zeros(server.layout.size, np.float64)
        self._owners = {pair.module: np.zeros(pair.rank) for pair in server.pairs}
        self._weights = {pair.module: 0.0 for pair in server.pairs}

    def add(self, pair: Pair, flat: Float32, weight: float) -> None:
        """Add one pair of a client's factors, from `flat` in the client's layout."""
        ours = self._server.by_module[pair.module]
        factor = weight * (pair.scale / ours.scale) ** 0.5
        ours.a_of(self._sum)[: pair.rank] += np.multiply(pair.a_of(flat), factor, dtype=np.float64)
        ours.b_of(self._sum)[:, : pair.rank] += np.multiply(pair.b_of(flat), factor, dtype=np.float64)
        self._owners[pair.module][: pair.rank] += weight
        self._weights[pair.module] += weight

    def pair(self, module: str) -> Pair:
        """The pair that the sums of a module have."""
        return self._server.by_module[module]

    def weight(self, pair: Pair) -> float:
        """Sum of the weights in a server's pair."""
        return self._weights[pair.module]

    def mean_of_all(self, pair: Pair) -> tuple[Float64, Float64]:
        """B and A of a server's pair, where a client counts as zero on slices it does not have."""
        weight = self.weight(pair)
        return pair.b_of(self._sum) / weight, pair.a_of(self._sum) / weight

    def mean_of_owners(self, pair: Pair, *, b: Float64, a: Float64) -> tuple[Float64, Float64]:
        """B and A of a server's pair, each slice the mean over its owners; `b` and `a` where there are none."""
        owners = self._owners[pair.module]
        owned = owners > 0
        b, a = b.copy(), a.copy()
        b[:, owned] = pair.b_of(self._sum)[:, owned] / owners[owned]
        a[owned] = pair.a_of(self._sum)[owned] / owners[owned, None]
        return b, a


class ProductSum:
    """The exact sum of scaled products c_k B_k A_k of one module as factors, stacked (arXiv 2409.05976).

    Once more columns wait than the shorter side has, QR of one stack reduces the sum to that many without loss.
    """

    def __init__(self, d_out: int, d_in: int) -> None:
        self._folded = LowRank.zero(d_out, d_in)
        self._waiting: list[tuple[Float32, Float32, float]] = []
        self._columns = 0

    def add(self, b: Float32, a: Float32, coefficient: float) -> None:
        """Add coefficient * b @ a; b: (d_out, n) and a: (n, d_in) are copied."""
        self._waiting.append((b.copy(), a.copy(), coefficient))
        self._columns += b.shape[1]
        if self._columns >= self._folded.largest_rank:
            self._fold()

    def total(self) -> LowRank:
        """The sum, in at most twice as many columns as its rank can be."""
        self._fold()
        return self._folded

    def _fold(self) -> None:
        if not self._waiting:
            return
        folded = self._folded
        b: list[Float64] = [folded.b, *(np.multiply(b, c, dtype=np.float64) for b, _, c in self._waiting)]
        a = [folded.a, *(a.astype(np.float64) for _, a, _ in self._waiting)]
        self._folded = LowRank(np.hstack(b), np.vstack(a)).fitted()
        self._waiting.clear()
        self._columns = 0


class ExactMean:
    """The exact weighted mean of scale_k B_k A_k over clients of any ranks; all else is averaged plainly."""

    def __init__(self, context: RoundContext) -> None:
        self._products = {pair.module: ProductSum(pair.d_out, pair.d_in) for pair in context.geometry.pairs}
        self._others = WeightedSum(context.geometry.others_size)

    def add(self, contribution: Contribution) -> None:
        """Add one client's trained adapter; the caller has checked it."""
        trained = contribution.geometry.trained(contribution.received.flat, contribution.delta.flat)
        for pair in contribution.geometry.pairs:
            weight = contribution.weight * pair.scale
            self._products[pair.module].add(pair.b_of(trained), pair.a_of(trained), weight)
        self._others.add(contribution.geometry.others_of(contribution.delta.flat), contribution.weight)

    def product(self, pair: Pair) -> LowRank:
        """The exact mean of one module, (d_out, d_in)."""
        return self._products[pair.module].total().scaled(1.0 / self._others.weight)

    def others(self) -> Float64:
        """The mean delta of all other tensors, (others_size,)."""
        return self._others.mean()
