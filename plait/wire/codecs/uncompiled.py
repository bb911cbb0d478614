"""What takes long in the variable-rate codec, in numpy: the specification of `compiled`, used where nothing compiles.

The search for the cheapest paths, packing and unpacking, with the arguments of `compiled`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast

import constriction
import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.errors import PeerError
from plait.wire.codecs.entropy import DOES_NOT_END, Scatter, Symbols, Words, streams_of

if TYPE_CHECKING:
    from plait.wire.codecs.trellis import Cost, Trellis

_STEPS_BETWEEN_REBASES = 8
_STATES_AT_ONCE = 1 << 16  # of all lanes together; more would not fit a cache

_Scalar = TypeVar("_Scalar", bound=np.generic)


def search(cell: NDArray[np.int32], costs: Cost, lanes: int, trellis: Trellis) -> NDArray[np.uint8]:
    """As `Trellis.cheapest`."""
    size, steps = cell.size, -(-cell.size // lanes)
    costs = np.pad(costs, ((0, 0), (0, 1)))
    if size < steps * lanes:  # lanes that end one step early end in a free cell
        cell = np.pad(cell, (0, steps * lanes - size), constant_values=costs.shape[1] - 1)
    grid = cell.reshape(steps, lanes)
    first = trellis.first(lanes)
    branches = np.empty((steps, lanes), np.uint8)
    at_once = 2 * _STATES_AT_ONCE // trellis.following.size
    for start in range(0, lanes, at_once):
        part = slice(start, start + at_once)
        _search(costs.take(grid[:, part], axis=1), first[part], branches[:, part], trellis)
    return branches.ravel()[:size]


def _search(costs: Cost, first: NDArray[np.intp], branches: NDArray[np.uint8], trellis: Trellis) -> None:
    """Fill (steps, lanes) `branches` by (4, steps, lanes) `costs`."""
    _, steps, lanes = costs.shape
    states = trellis.following.size // 2
    half = states // 2
    sums = np.full((states, lanes), trellis.unreachable, np.int16)
    sums[first, np.arange(lanes)] = 0
    arriving = np.empty((4, half, lanes), np.int16)
    even0, even1, odd0, odd1 = (_turned(here, turn) for here, turn in zip(arriving, trellis.turns, strict=True))
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
    _trace_back(sums.argmin(axis=0), parity.view(np.uint8).reshape(steps, -1), branches, trellis)


def _trace_back(
    state: NDArray[np.intp], parity: NDArray[np.uint8], branches: NDArray[np.uint8], trellis: Trellis
) -> None:
    (steps, lanes), states = branches.shape, trellis.following.size // 2
    branch = (2 * (np.arange(states) // (states // 2))[:, None] + np.arange(2)).astype(np.uint8).ravel()
    lane = np.arange(lanes)
    for step in range(steps - 1, -1, -1):
        arrival = 2 * state + parity[step].take(state * lanes + lane)
        branches[step] = branch.take(arrival)
        state = trellis.before.take(arrival)


def _turned(rows: NDArray[_Scalar], mask: int) -> NDArray[_Scalar]:
    """A view of 2**k rows with row i ^ mask in position i, as an array with k axes of 2 before the last."""
    bits = rows.shape[0].bit_length() - 1
    turn = tuple(slice(None, None, -1 if mask >> bit & 1 else None) for bit in range(bits - 1, -1, -1))
    return rows.reshape(*(2,) * bits, rows.shape[1])[turn]


def pack(
    symbols: Symbols,
    second: NDArray[np.uint8],
    sizes: Sequence[int],
    largest: Sequence[int],  # noqa: ARG001 (as `compiled.pack`)
    frequencies: Sequence[NDArray[np.int64]],
    lanes: int,
) -> list[Words]:
    """As `compiled.pack`."""
    models, odd = _models(frequencies), second.astype(np.bool_)
    coders = [_coder() for _ in range(streams_of(lanes))]
    for group, row in reversed(list(_rows(sizes, lanes))):
        for coder, part in _blocks(coders, lanes, row.start % lanes, row.stop - row.start):
            mine, is_odd = symbols[row][part], odd[row][part]
            coder.encode_reverse(mine[is_odd], models[group][1])
            coder.encode_reverse(mine[~is_odd], models[group][0])
    return [coder.get_compressed() for coder in coders]


def unpack(
    streams: Sequence[Words],
    sizes: Sequence[int],
    largest: Sequence[int],
    frequencies: Sequence[NDArray[np.int64]],
    values: Sequence[Float32],
    following: NDArray[np.intp],
    lanes: int,
    places: Sequence[tuple[int, int]],
    flat: Float32,
) -> None:
    """As `compiled.unpack`."""
    models, numbers = _models(frequencies), Scatter(flat, places)
    coders, state = [_coder(stream) for stream in streams], np.arange(lanes) % (following.size // 2)
    for group, row in _rows(sizes, lanes):
        first, width = row.start % lanes, row.stop - row.start
        now = state[first : first + width]
        odd, symbol = (now & 1).astype(bool), np.empty(width, np.int32)
        for coder, part in _blocks(coders, lanes, first, width):
            mine, is_odd = symbol[part], odd[part]
            ones = int(np.count_nonzero(is_odd))
            mine[~is_odd] = coder.decode(models[group][0], mine.size - ones)
            mine[is_odd] = coder.decode(models[group][1], ones)
        now[:] = following.take(2 * now + (symbol + largest[group] & 1))
        symbol[odd] += 2 * largest[group] + 1
        numbers.write(values[group].take(symbol))
    if not all(coder.is_empty() for coder in coders):
        raise PeerError(DOES_NOT_END)


def _rows(sizes: Sequence[int], lanes: int) -> Iterator[tuple[int, slice]]:
    """Numbers coded together: each step of all lanes, split where one group ends and the next begins."""
    start, end = 0, 0
    for group, size in enumerate(sizes):
        end += size
        while start < end:
            stop = min(end, start - start % lanes + lanes)
            yield group, slice(start, stop)
            start = stop


def _models(frequencies: Sequence[NDArray[np.int64]]) -> list[Models]:
    """Of every group, prepared for streams."""
    each = [model_of(one) for one in frequencies]
    return list(zip(each[::2], each[1::2], strict=True))


class Model(Protocol):
    """Frequencies, prepared for coding."""


Models: TypeAlias = tuple[Model, Model]
"""Of both kinds of symbols."""


class _Coder(Protocol):
    def encode_reverse(self, symbols: Symbols, model: Model, /) -> None: ...
    def decode(self, model: Model, amount: int, /) -> Symbols: ...
    def get_compressed(self) -> Words: ...
    def is_empty(self) -> bool: ...


# The library has no types; these describe the part used here.
_categorical = cast("Callable[..., Model]", constriction.stream.model.Categorical)  # pyright: ignore[reportAttributeAccessIssue]
_coder = cast("Callable[..., _Coder]", constriction.stream.stack.AnsCoder)  # pyright: ignore[reportAttributeAccessIssue]


def model_of(frequencies: NDArray[np.int64]) -> Model:
    """Prepare frequencies, each at least 1, with a sum of 2**24."""
    # The library first gives every symbol 1 and distributes the rest in proportion: here that is already integral.
    rest = (frequencies - 1).astype(np.float64)
    return _categorical(rest, perfect=False)


def _blocks(coders: Sequence[_Coder], lanes: int, first: int, width: int) -> Iterator[tuple[_Coder, slice]]:
    """Each coder that has some of the `width` lanes from `first` on, and which of them."""
    for number, coder in enumerate(coders):
        start, stop = (max(0, lanes * (number + side) // len(coders) - first) for side in (0, 1))
        if start < min(stop, width):
            yield coder, slice(start, min(stop, width))
