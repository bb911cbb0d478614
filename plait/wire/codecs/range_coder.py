"""A range coder: rows of symbols into one stream of bytes, close to the ideal length for their frequencies.

The coder itself is constriction's (Bamler, "Understanding entropy coding with asymmetric numeral systems", arXiv
2201.01741), 32-bit words and 24-bit frequencies; proto/README.md specifies its stream. Knows no quantiser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import constriction
import numpy as np
from numpy.typing import NDArray

from plait.errors import PeerError

Symbols = NDArray[np.int32]


class Model(Protocol):
    """Frequencies, prepared for coding."""


class _Encoder(Protocol):
    def encode(self, symbols: Symbols, model: Model, /) -> None: ...
    def get_compressed(self) -> NDArray[np.uint32]: ...


class _Decoder(Protocol):
    def decode(self, model: Model, amount: int, /) -> Symbols: ...
    def maybe_exhausted(self) -> bool: ...


# The library has no types; these describe the part used here.
_categorical = cast("Callable[..., Model]", constriction.stream.model.Categorical)  # pyright: ignore[reportAttributeAccessIssue]
_encoder = cast("Callable[[], _Encoder]", constriction.stream.queue.RangeEncoder)  # pyright: ignore[reportAttributeAccessIssue]
_decoder = cast("Callable[[NDArray[np.uint32]], _Decoder]", constriction.stream.queue.RangeDecoder)  # pyright: ignore[reportAttributeAccessIssue]


def model_of(frequencies: NDArray[np.int64]) -> Model:
    """Prepare frequencies, each at least 1, with a sum of 2**24."""
    # The library first gives every symbol 1 and distributes the rest in proportion: here that is already integral.
    rest = (frequencies - 1).astype(np.float64)
    return _categorical(rest, perfect=False)


class RangeWriter:
    """Writes one stream."""

    def __init__(self) -> None:
        self._coder = _encoder()

    def write(self, symbols: Symbols, model: Model) -> None:
        """Append symbols, indices of frequencies in `model`."""
        self._coder.encode(symbols, model)

    def finish(self) -> bytes:
        """The stream."""
        return self._coder.get_compressed().astype("<u4", copy=False).tobytes()


class RangeReader:
    """Reads one stream.

    Raises:
        PeerError: its length is not that of a stream.
    """

    def __init__(self, stream: bytes | memoryview) -> None:
        if len(stream) % 4:
            raise PeerError(f"range-coded stream has {len(stream)} bytes, expected a multiple of 4")
        words = np.frombuffer(stream, "<u4").astype(np.uint32)
        self._coder = _decoder(words)

    def read(self, amount: int, model: Model) -> Symbols:
        """The next symbols.

        Raises:
            PeerError: no writer could have made this stream.
        """
        try:
            return self._coder.decode(model, amount)
        except AssertionError:  # the library's error for it
            raise PeerError("range-coded stream cannot be decoded, expected one of these frequencies") from None

    def finish(self) -> None:
        """Raise PeerError if anything is left to read."""
        if not self._coder.maybe_exhausted():
            raise PeerError("range-coded stream continues after its last symbol, expected its end")
