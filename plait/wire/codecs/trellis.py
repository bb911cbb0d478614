"""Trellis-coded quantisation: two interleaved scalar quantisers, and a state machine that selects the next one.

Quantiser 0 has the even multiples of a step, quantiser 1 the odd multiples and zero. The parity of each index changes
the state, so a path through the trellis packs space better than any single scalar quantiser. The encoder searches the
cheapest path (Viterbi); the decoder only follows it. Marcellin and Fischer, "Trellis coded quantization of memoryless
and Gauss-Markov sources" (IEEE Trans. Commun. 1990), with the union codebooks of Fischer and Wang, "Entropy-constrained
trellis-coded quantization" (IEEE Trans. Inf. Theory 1992) and Ungerboeck's codes (same journal, 1982, table I).

Many lanes run in parallel, so that numpy works on whole rows. Knows no bytes and no probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plait.wire.codecs import compiled

# log2 of the number of states: parity-check polynomials (h0, h1).
_POLYNOMIALS: Mapping[int, tuple[int, int]] = {
    2: (0o5, 0o2),
    3: (0o13, 0o4),
    4: (0o23, 0o4),
    5: (0o45, 0o10),
    6: (0o103, 0o24),
    7: (0o235, 0o126),
    8: (0o515, 0o362),
}
STATE_BITS = frozenset(_POLYNOMIALS)

LANE_STEPS = 512

# Every state is at most state_bits (8) steps from every other, so sums over a path differ by at most 8 · GREATEST_COST.
# They stay below 2**15 for 8 more steps, even if they begin beyond that, where no allowed path can end.
GREATEST_COST = 2047
_UNREACHABLE = 8 * GREATEST_COST + 1
_STEPS_BETWEEN_REBASES = 8
_STATES_AT_ONCE = 1 << 16  # of all lanes together; more would not fit a cache

Cost = NDArray[np.int16]
_Scalar = TypeVar("_Scalar", bound=np.generic)


def lanes_of(size: int) -> int:
    """Number of lanes for `size` numbers (part of the format)."""
    return max(1, size // LANE_STEPS)


class Trellis:
    """A trellis of 2**state_bits states; state s uses quantiser s & 1, and lane l begins in state l mod 2**state_bits.

    Attributes:
        following: (states * 2,) the state after state s and an index of parity p, at 2 s + p.
    """

    def __init__(self, state_bits: int) -> None:
        h0, h1 = _POLYNOMIALS[state_bits]
        self._states = 1 << state_bits
        states = np.arange(self._states)
        moves = [states >> 1 ^ (h0 >> 1) * (states & 1) ^ (h1 >> 1) * parity for parity in (0, 1)]
        self.following: NDArray[np.intp] = np.stack(moves, axis=1).ravel().astype(np.intp)
        # The lower half of the states is reached from even states, the upper from odd ones, because h0 has its top bit
        # and h1 does not. The previous state, halved, is the state within its half, with the bits of a mask flipped.
        half = self._states // 2
        turn = (h0 >> 1) % half
        self._turns = (0, h1 >> 1, turn, turn ^ h1 >> 1)  # of each branch 2 * quantiser + parity
        self._before: NDArray[np.intp] = np.concatenate(
            [
                2 * np.stack([np.arange(half) ^ self._turns[2 * quantiser + parity] for parity in (0, 1)], axis=1)
                + quantiser
                for quantiser in (0, 1)
            ]
        ).ravel()  # at 2 * state + parity of the branch that leads there

    def first(self, lanes: int) -> NDArray[np.intp]:
        """(lanes,) the initial state of each lane: all states in turn."""
        return np.arange(lanes) % self._states

    def cheapest(self, cell: NDArray[np.int32], costs: Cost, lanes: int) -> NDArray[np.uint8]:
        """The cheapest path.

        Args:
            cell: (n,) cell of each number; number i is step i // lanes of lane i % lanes.
            costs: (4, cells) cost of a number in a cell in branch 2 * quantiser + parity, 0 to `GREATEST_COST`.

        Returns:
            (n,) the branch of each number.
        """
        if (found := compiled.search(cell, costs, lanes, self._before)) is not None:
            return found
        size, steps = cell.size, -(-cell.size // lanes)
        costs = np.pad(costs, ((0, 0), (0, 1)))
        if size < steps * lanes:  # lanes that end one step early end in a free cell
            cell = np.pad(cell, (0, steps * lanes - size), constant_values=costs.shape[1] - 1)
        grid = cell.reshape(steps, lanes)
        first = self.first(lanes)
        branches = np.empty((steps, lanes), np.uint8)
        at_once = _STATES_AT_ONCE // self._states
        for start in range(0, lanes, at_once):
            part = slice(start, start + at_once)
            self._search(costs.take(grid[:, part], axis=1), first[part], branches[:, part])
        return branches.ravel()[:size]

    def _search(self, costs: Cost, first: NDArray[np.intp], branches: NDArray[np.uint8]) -> None:
        """Fill (steps, lanes) `branches` by (4, steps, lanes) `costs`."""
        _, steps, lanes = costs.shape
        half = self._states // 2
        sums = np.full((self._states, lanes), _UNREACHABLE, np.int16)
        sums[first, np.arange(lanes)] = 0
        arriving = np.empty((4, half, lanes), np.int16)
        even0, even1, odd0, odd1 = (_turned(here, turn) for here, turn in zip(arriving, self._turns, strict=True))
        lower, upper = _turned(sums[:half], 0), _turned(sums[half:], 0)
        parity = np.empty((steps, 2, *lower.shape), np.bool_)  # of the cheapest branch to a state
        for step in range(steps):
            for branch in range(4):
                np.add(sums[branch >> 1 :: 2], costs[branch, step], out=arriving[branch])
            np.less(even1, even0, out=parity[step, 0])
            np.less(odd1, odd0, out=parity[step, 1])
            np.minimum(even0, even1, out=lower)
            np.minimum(odd0, odd1, out=upper)
            if step % _STEPS_BETWEEN_REBASES == _STEPS_BETWEEN_REBASES - 1:
                sums -= sums.min(axis=0)
        self._trace_back(sums.argmin(axis=0), parity.view(np.uint8).reshape(steps, -1), branches)

    def _trace_back(self, state: NDArray[np.intp], parity: NDArray[np.uint8], branches: NDArray[np.uint8]) -> None:
        (steps, lanes), states = branches.shape, self._states
        branch = (2 * (np.arange(states) // (states // 2))[:, None] + np.arange(2)).astype(np.uint8).ravel()
        lane = np.arange(lanes)
        for step in range(steps - 1, -1, -1):
            arrival = 2 * state + parity[step].take(state * lanes + lane)
            branches[step] = branch.take(arrival)
            state = self._before.take(arrival)


def _turned(rows: NDArray[_Scalar], mask: int) -> NDArray[_Scalar]:
    """A view of 2**k rows with row i ^ mask in position i, as an array with k axes of 2 before the last."""
    bits = rows.shape[0].bit_length() - 1
    turn = tuple(slice(None, None, -1 if mask >> bit & 1 else None) for bit in range(bits - 1, -1, -1))
    return rows.reshape(*(2,) * bits, rows.shape[1])[turn]
