"""The chance that the graph of a large roster lets a server tell apart few of its clients, added up.

After Bell et al. (arXiv 2020/704), for the union of random cycles that `plait.wire.masked_roster.neighbours` draws.
The colluders are fixed before the cycles are drawn, and whom the server drops is chosen after it. What it tells apart
is a set A of honest survivors without an honest survivor as a neighbour outside. Every client in it has two thirds of
its h holders among survivors (h <= 65), so at most h // 3 <= 21 neighbours outside of A and the colluders. And with
fewer than half of the clients in A there are honest survivors outside.

    one      a client alone: exactly, by the distinct neighbours and colluders along the cycles
    several  by Chernoff: links are drawn one after another; of the 64 ends at each client of A at most 21 are new
             clients outside, and a link within A takes two ends
    many     of A and the survivors outside the smaller set has no link into the larger
"""

import numpy as np

from plait.guarantees import threshold_of
from plait.wire.masked_roster import CYCLES, neighbours

ENDS = 2 * CYCLES
OUTSIDE = (ENDS + 1) // 3
FACTORS = np.geomspace(1.05, 8, 60)


def failure_bits(count: int, colluders: int) -> float:
    """log2 of a bound on the chance that some set of fewer than half of the clients can be told apart."""
    honest = threshold_of(count) - colluders
    few = max(1, honest - count // 2)
    sizes = np.arange(2, few + 1)
    chosen = _choose(count - colluders, sizes)
    alone = np.array([_one(count, colluders + size - 1) for size in sizes[:8]]) + chosen[:8]
    several = sizes * _several(count, colluders, sizes) + chosen
    several[: len(alone)] = np.minimum(several[: len(alone)], alone)
    one = _one(count, colluders) + np.log2(count)
    return float(np.logaddexp2.reduce([one, *several, *_many(count, honest, few)]))


def mixing(count: int, roster: bytes) -> float:
    """How slowly a walk along the graph forgets where it began: nearly 1 if few links join two large parts."""
    graph = neighbours(count, roster)
    degrees = np.array([len(each) for each in graph])
    start, end = np.repeat(np.arange(count), degrees), np.concatenate(graph)
    walk = np.random.default_rng(count).standard_normal(count)
    for _ in range(60):
        walk -= walk @ degrees / degrees.sum()
        walk /= np.linalg.norm(walk)
        walk = np.bincount(start, walk[end], count) / degrees
    return float(np.linalg.norm(walk))


def _one(count: int, colluders: int) -> float:
    """log2 of the chance that a client has at most a third of its holders among the others that do not collude."""
    honest = count - 1 - colluders
    chances = np.zeros((ENDS + 1, ENDS + 1))  # by distinct neighbours that do not collude, and that do
    chances[0, 0] = 1
    free, caught = np.indices(chances.shape, dtype=float)
    new, bad, old = np.maximum(honest - free, 0), np.maximum(colluders - caught, 0), free + caught
    pairs = (count - 1) * (count - 2) / 2
    ways = {
        (2, 0): new * (new - 1) / 2, (0, 2): bad * (bad - 1) / 2, (1, 1): new * bad,
        (1, 0): new * old, (0, 1): bad * old, (0, 0): old * (old - 1) / 2,
    }  # fmt: skip
    for _ in range(CYCLES):
        after = np.zeros_like(chances)
        for (more, worse), way in ways.items():
            moved = (chances * way / pairs)[: ENDS + 1 - more, : ENDS + 1 - worse]
            after[more:, worse:] += moved
        chances = after
    return float(np.log2(max(chances[free <= (1 + free + caught) // 3].sum(), 1e-300)))


def _several(count: int, colluders: int, sizes: np.ndarray) -> np.ndarray:
    """For sets of each size, log2 of a bound per client of it, by the best of `FACTORS`."""
    left = (count - 2 * sizes)[:, None, None]
    seen, factor = np.arange(OUTSIDE + 1)[None, None], FACTORS[None, :, None]
    alike, within = (colluders + seen) / left, sizes[:, None, None] / left
    same, new = alike * factor + within * factor**2, np.maximum(1 - alike - within, 0)
    weights = np.zeros((len(sizes), len(FACTORS), OUTSIDE + 1))
    weights[..., 0] = 1
    for _ in range(ENDS):
        moved = weights * new
        weights = weights * same
        weights[..., 1:] += moved[..., :-1]
        weights[..., -1] += moved[..., -1]
    return (np.log2(weights.sum(-1)) - (ENDS - OUTSIDE) * np.log2(FACTORS)).min(-1)


def _many(count: int, honest: int, few: int) -> np.ndarray:
    """For sets of each size from `few` to a half, log2 of a bound that there is one without a link to the others."""
    sizes = np.arange(few + 1, min(count // 2, honest - 1) + 1)
    small, large = np.minimum(sizes, honest - sizes), np.maximum(sizes, honest - sizes)
    linkless = CYCLES * small * np.log2(1 - large / (count - 1))
    return _choose(count, small) + _choose(count - small, large) + linkless


def _choose(count: "int | np.ndarray", of: np.ndarray) -> np.ndarray:
    """log2 of binomial coefficients."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, np.max(count) + 1)))])
    return factorials[count] - factorials[of] - factorials[count - of]
