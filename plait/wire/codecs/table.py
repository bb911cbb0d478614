"""The table of codecs, by the names and numbers under which they travel, and the dial that picks one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from plait.errors import ConfigError, PeerError
from plait.wire.codec import Codec
from plait.wire.codecs.bf16 import Bf16
from plait.wire.codecs.fp32 import Fp32
from plait.wire.codecs.unchanged import Unchanged

CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (Unchanged(), Fp32(), Bf16())}

_BY_NUMBER: Mapping[int, Codec] = {codec.number: codec for codec in CODECS.values()}
_DIAL = ("fp32", "bf16")


def codec_for(wire: str) -> Codec:
    """The codec that `--wire` asks for.

    Raises:
        ConfigError: there is none; the message names the nearest one.
    """
    if wire not in _DIAL:
        nearest = difflib.get_close_matches(wire.lower(), _DIAL, 1, cutoff=0.5)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        raise ConfigError(f"wire is '{wire}', expected {' or '.join(_DIAL)}{hint}")
    return CODECS[wire]


def codec_numbered(number: int) -> Codec:
    """The codec that an envelope says it was packed with.

    Raises:
        PeerError: this version knows no such codec.
    """
    codec = _BY_NUMBER.get(number)
    if codec is None:
        known = ", ".join(f"{n} ({c.name})" for n, c in _BY_NUMBER.items())
        raise PeerError(f"codec of the payload is {number}, expected one of {known}")
    return codec
