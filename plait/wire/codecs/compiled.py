"""What takes long in the variable-rate codec, compiled; where nothing compiles, by `uncompiled`.

That is the specification: both give the same, bit for bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plait.adapters.state import Float32
from plait.errors import MachineError, PeerError
from plait.system.compiler import INTEGER, POINTER, addresses, built_functions
from plait.wire.codecs.entropy import DOES_NOT_END, MOST_STREAMS, Symbols, Words, streams_of

if TYPE_CHECKING:
    from plait.wire.codecs.trellis import Cost, Trellis

SOURCES = ("trellis.cpp", "ans.cpp")
"""One translation unit, in this order."""
_P, _I = POINTER, INTEGER
_ARGUMENTS = {
    "trellis_search": (_P, _P, _P, _I, _I, _I, _P),
    "rate_pack": (_P, _P, _P, _P, _I, _P, _I, _I, _P, _I, _P),
    "rate_unpack": (_P, _P, _I, _P, _P, _I, _P, _P, _P, _I, _I, _P, _I, _P),
}
_FINE, _NO_MEMORY = 0, 1
_MOST_BYTES_OF_A_SYMBOL = 3


@cache
def library() -> ctypes.CDLL | None:
    """The library; None where it cannot be built."""
    return built_functions(Path(__file__).parent, SOURCES, _ARGUMENTS)


def _in_numpy():
    from plait.wire.codecs import uncompiled

    return uncompiled


def search(cell: NDArray[np.int32], costs: Cost, lanes: int, trellis: Trellis) -> NDArray[np.uint8]:
    """The branch of each number; see `Trellis.cheapest`."""
    built = library()
    if built is None:
        return _in_numpy().search(cell, costs, lanes, trellis)
    branches = np.empty(cell.size, np.uint8)
    cell, costs = np.ascontiguousarray(cell, np.int32), np.ascontiguousarray(costs.T, np.int16)
    before = np.ascontiguousarray(trellis.before, np.int64)
    built.trellis_search(*addresses(cell, costs, before), cell.size, lanes, before.size // 2, *addresses(branches))
    return branches


def pack(
    symbols: Symbols,
    second: NDArray[np.uint8],
    sizes: Sequence[int],
    largest: Sequence[int],
    frequencies: Sequence[NDArray[np.int64]],
    lanes: int,
) -> list[Words]:
    """The streams of numbers.

    Args:
        symbols: (n,) of each number, from 0 on.
        second: (n,) 1 where it is of quantiser 1.
    """
    built = library()
    if built is None:
        return _in_numpy().pack(symbols, second, sizes, largest, frequencies, lanes)
    words = np.empty(_MOST_BYTES_OF_A_SYMBOL * symbols.size // 4 + 4 * MOST_STREAMS, np.uint32)
    lengths = np.zeros(streams_of(lanes), np.int64)
    symbols, second, of_sizes, of_largest, of_frequencies = (
        np.ascontiguousarray(symbols, np.int32),
        np.ascontiguousarray(second, np.uint8),
        np.array(sizes, np.int64),
        np.array(largest, np.int32),
        np.concatenate(frequencies).astype(np.uint32),
    )
    inputs = addresses(symbols, second, of_sizes, of_largest)
    verdict = built.rate_pack(
        *inputs, len(sizes), *addresses(of_frequencies), lanes, lengths.size, *addresses(words), words.size,
        *addresses(lengths),
    )  # fmt: skip
    if verdict != _FINE:
        raise MachineError("no memory to pack an update")
    return np.split(words[: lengths.sum()], np.cumsum(lengths)[:-1])


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
    """Fill `flat` with the numbers of streams.

    Args:
        following: (states * 2,) the state after each state and parity.
        places: (offset, size) of every tensor, in order of the groups.
        flat: what is not sent stays as it is.
    """
    built = library()
    if built is None or not sizes:
        _in_numpy().unpack(streams, sizes, largest, frequencies, values, following, lanes, places, flat)
        return
    words, lengths = np.concatenate(streams), np.array([stream.size for stream in streams], np.int64)
    of_sizes, of_largest = np.array(sizes, np.int64), np.array(largest, np.int32)
    of_frequencies, of_values = np.concatenate(frequencies).astype(np.uint32), np.concatenate(values)
    moves, where = following.astype(np.uint16), np.array(places, np.int64)
    verdict = built.rate_unpack(
        *addresses(words, lengths), len(streams), *addresses(of_sizes, of_largest), len(sizes),
        *addresses(of_frequencies, of_values, moves), moves.size // 2, lanes, *addresses(where), len(places),
        *addresses(flat),
    )  # fmt: skip
    if verdict == _NO_MEMORY:
        raise MachineError("no memory to unpack an update")
    if verdict != _FINE:
        raise PeerError(DOES_NOT_END)
