"""The table of codecs by their names and numbers on the wire, and the choice of one by `--bits`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import ConfigError, PeerError, did_you_mean
from plait.plugins import Kind, find, is_named
from plait.settings.choice import Choices, parse_choice
from plait.wire.codec import Codec, EncodedPayload
from plait.wire.codecs.rate import GREATEST_BITS, LEAST_BITS, RATE, Rate

if TYPE_CHECKING:
    from plait.wire.codecs.own import OwnCodec
    from plait.wire.codecs.plain import Partial

UNCHANGED = "unchanged"
"""The codec of an all-zero delta."""


class Unchanged:
    """Packs zeros into nothing."""

    name = UNCHANGED
    number = 1
    bits = 0.0
    distortion = 0.0

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """Pack zeros; anything else is the caller's mistake."""
        if delta.flat.any():
            raise ValueError("the delta holds numbers other than zero")
        return EncodedPayload(b"", b"")

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """(layout.size,) zeros."""
        if parameters or len(payload):
            raise PeerError(
                f"payload of an unchanged adapter has {len(parameters) + len(payload)} bytes, expected none"
            )
        return np.zeros(layout.size, np.float32)

    def max_payload_bytes(self, layout: Layout) -> int:  # noqa: ARG002
        """None."""
        return 0


NOTHING = Unchanged()


def _plain() -> Mapping[str, Codec]:
    from plait.wire.codecs.plain import BF16, BF16_PARTIAL, FP32, FP32_PARTIAL

    return {"fp32": FP32, "bf16": BF16, "fp32_partial": FP32_PARTIAL, "bf16_partial": BF16_PARTIAL}


CODECS: Choices[Codec] = Choices(
    ((UNCHANGED,), lambda: {UNCHANGED: NOTHING}),
    (("fp32", "bf16", "fp32_partial", "bf16_partial"), _plain),
    (("rate",), lambda: {"rate": RATE}),
)
"""All codecs by name, including those that only an envelope names."""
_NAMES: Mapping[int, str] = {
    1: UNCHANGED,
    2: "fp32",
    3: "bf16",
    4: "rate",
    9: "fp32_partial",
    10: "bf16_partial",
}
# The names that `--bits` takes; any number is bits per parameter.
_NAMED = ("fp32", "bf16")
# Users' own codecs that this process was asked for by name; a number alone finds no other.
_OWN: dict[int, OwnCodec] = {}
_USUAL_RANK = 8
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)


def codec_for(bits: str) -> Codec:
    """The codec that `--bits` asks for: ``fp32``, ``bf16``, a number of bits per parameter, or a user's own.

    Raises:
        ConfigError: there is none; the message lists the possible values.
    """
    if bits in _NAMED:
        return CODECS[bits]
    if _NUMBER.fullmatch(bits) and LEAST_BITS <= float(bits) <= GREATEST_BITS:
        return Rate(float(bits))
    name, options = parse_choice(bits)
    if is_named(Kind.CODEC, name):
        from plait.wire.codecs.own import as_codec

        codec = as_codec(find(Kind.CODEC, name, known=_NAMED), options, name=name)
        other = _OWN.get(codec.number, codec)
        if other.name != name:
            raise ConfigError(f"codecs '{other.name}' and '{name}' both have number {codec.number}: give one another")
        _OWN[codec.number] = codec
        return codec
    hint = did_you_mean(bits.lower(), _NAMED)
    if _NUMBER.fullmatch(bits) and 0 < float(bits) < LEAST_BITS:
        rank = max(1, round(_USUAL_RANK * float(bits)))
        hint = f"; to send less use --rank {rank} at 1 bit, which keeps more than rank {_USUAL_RANK} at {bits}"
    raise ConfigError(
        f"bits is '{bits}', expected {', '.join(_NAMED)} or {LEAST_BITS} to {GREATEST_BITS} bits per parameter{hint}"
    )


def without_zeros(codec: Codec, delta: AdapterState) -> Codec:
    """The codec for this delta: `codec`, without all-zero tensors if that saves bytes."""
    if not delta.flat.view(np.uint32).any():
        return CODECS[UNCHANGED]
    if (name := f"{codec.name}_partial") not in CODECS:
        return codec
    partial = cast("Partial", CODECS[name])
    return partial if partial.saves(delta) else codec


def codec_numbered(number: int) -> Codec:
    """The codec that an envelope names."""
    if codec := _OWN.get(number):
        return codec
    if number not in _NAMES:
        known = ", ".join(f"{each} ({name})" for each, name in _NAMES.items())
        raise PeerError(f"codec of the payload is {number}, expected one of {known}")
    return CODECS[_NAMES[number]]
