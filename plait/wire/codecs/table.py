"""The table of codecs by their names and numbers on the wire, and the choice of one by `--wire`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from plait.adapters import AdapterState
from plait.choice import parse_choice
from plait.errors import ConfigError, PeerError, did_you_mean
from plait.plugins import Kind, find, is_named
from plait.wire.codec import Codec
from plait.wire.codecs.bf16 import Bf16
from plait.wire.codecs.exact_sum import SUM
from plait.wire.codecs.fp32 import Fp32
from plait.wire.codecs.partial import Partial
from plait.wire.codecs.rate import GREATEST_BITS, LEAST_BITS, Rate
from plait.wire.codecs.unchanged import Unchanged

if TYPE_CHECKING:
    from plait.wire.codecs.own import OwnCodec

UNCHANGED = Unchanged()

# The names that `--wire` takes; any number is bits per parameter.
_NAMED: Mapping[str, Codec] = {codec.name: codec for codec in (Fp32(), Bf16())}
_PARTIAL = (Partial("fp32_partial", 9, Fp32()), Partial("bf16_partial", 10, Bf16()))

CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (UNCHANGED, *_NAMED.values(), Rate(), *_PARTIAL)}
"""All codecs by name, including those that only an envelope names."""

# No client sends sums, so no card and no setting names their codec.
_BY_NUMBER: Mapping[int, Codec] = {codec.number: codec for codec in (*CODECS.values(), SUM)}
# Users' own codecs that this process was asked for by name; a number alone finds no other.
_OWN: dict[int, OwnCodec] = {}
_USUAL_RANK = 8
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)


def codec_for(wire: str) -> Codec:
    """The codec that `--wire` asks for: ``fp32``, ``bf16``, a number of bits per parameter, or a user's own.

    Raises:
        ConfigError: there is none; the message lists the possible values.
    """
    if wire in _NAMED:
        return _NAMED[wire]
    if _NUMBER.fullmatch(wire) and LEAST_BITS <= float(wire) <= GREATEST_BITS:
        return Rate(float(wire))
    name, options = parse_choice(wire)
    if is_named(Kind.CODEC, name):
        from plait.wire.codecs.own import as_codec

        codec = as_codec(find(Kind.CODEC, name, known=_NAMED), name=name).with_options(options)
        other = _OWN.get(codec.number, codec)
        if other.name != name:
            raise ConfigError(
                f"codecs '{other.name}' and '{name}' both have number {codec.number}, expected two numbers"
            )
        _OWN[codec.number] = codec
        return codec
    hint = did_you_mean(wire.lower(), _NAMED)
    if _NUMBER.fullmatch(wire) and 0 < float(wire) < LEAST_BITS:
        rank = max(1, round(_USUAL_RANK * float(wire)))
        hint = f"; to send less use --rank {rank} at 1 bit, which keeps more than rank {_USUAL_RANK} at {wire}"
    raise ConfigError(
        f"wire is '{wire}', expected {', '.join(_NAMED)} or {LEAST_BITS} to {GREATEST_BITS} bits per parameter{hint}"
    )


def without_zeros(codec: Codec, delta: AdapterState) -> Codec:
    """The codec for this delta: `codec`, without all-zero tensors if that saves bytes."""
    if not delta.flat.view(np.uint32).any():
        return UNCHANGED
    partial = next((each for each in _PARTIAL if each.inner.number == codec.number), None)
    return partial if partial is not None and partial.saves(delta) else codec


def codec_numbered(number: int) -> Codec:
    """The codec that an envelope names.

    Raises:
        PeerError: this version does not know it.
    """
    codec = _BY_NUMBER.get(number) or _OWN.get(number)
    if codec is None:
        known = ", ".join(f"{n} ({c.name})" for n, c in _BY_NUMBER.items())
        raise PeerError(f"codec of the payload is {number}, expected one of {known}")
    return codec
