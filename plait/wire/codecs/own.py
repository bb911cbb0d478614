"""A user's own codec: its number on the wire is experimental, and whatever it decodes from a peer's bytes is checked.

`CODEC_CHECKS` is the contract of every codec, for `plait check-plugin` and for plait's own in its tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import ConfigError, PeerError
from plait.own_code import BrokenError, Check, instance_of, located_errors
from plait.settings.choice import with_options
from plait.wire.codec import Codec, EncodedPayload

FIRST_OWN, LAST_OWN = 1000, 1999
"""The numbers of experimental codecs (proto/README.md): no version of plait gives one of them a format."""


@dataclass(frozen=True)
class OwnCodec:
    """A user's codec, with checks, under its name in the settings without options."""

    name: str
    number: int
    bits: float
    distortion: float
    inner: Codec

    def encode(self, delta: AdapterState) -> EncodedPayload:
        """See `Codec`.

        Raises:
            ConfigError: it fails, or makes more bytes than it allows.
        """
        with located_errors(f"codec '{self.name}' cannot encode"):
            packed = self.inner.encode(delta)
            most = self.inner.max_payload_bytes(delta.layout)
            size = packed.size_bytes
        if size > most:
            raise ConfigError(f"codec '{self.name}' made {size} bytes, expected at most its own limit of {most}")
        # Its own claim of what the bytes decode to is dropped.
        return EncodedPayload(packed.parameters, packed.payload)

    def decode(self, parameters: bytes, payload: bytes | memoryview, layout: Layout) -> Float32:
        """See `Codec`."""
        try:
            values = np.asarray(self.inner.decode(parameters, payload, layout))
        except PeerError:
            raise
        except Exception as error:
            # The message of another library may quote the bytes.
            raise PeerError(f"payload of codec '{self.name}' cannot be decoded: {type(error).__name__}") from error
        if values.shape != (layout.size,) or values.dtype != np.float32:
            raise PeerError(
                f"codec '{self.name}' decoded {values.dtype} of shape {values.shape}, expected float32 of shape "
                f"({layout.size},)"
            )
        if not np.isfinite(values).all():
            raise PeerError(f"codec '{self.name}' decoded a number that is not finite")
        return values

    def max_payload_bytes(self, layout: Layout) -> int:
        """See `Codec`."""
        return self.inner.max_payload_bytes(layout)


def as_codec(part: object, options: Mapping[str, str], *, name: str) -> OwnCodec:
    """What a name stands for, as a codec with options: a class without arguments, or a value.

    Raises:
        ConfigError: it lacks a member of `Codec` or an option, or its number is not an experimental one.
    """
    what = f"codec '{name}'"
    part = with_options(instance_of(part, what=what), options, what=what)
    members = ("number", "bits", "distortion", "encode", "decode", "max_payload_bytes")
    if missing := [member for member in members if not hasattr(part, member)]:
        raise ConfigError(
            f"codec '{name}' has no {', '.join(missing)}, expected number, bits, distortion, encode(delta), "
            "decode(parameters, payload, layout) and max_payload_bytes(layout), as plait.wire.codec.Codec has them"
        )
    codec = cast("Codec", part)
    if not FIRST_OWN <= codec.number <= LAST_OWN:
        raise ConfigError(f"number of codec '{name}' is {codec.number}, expected {FIRST_OWN} to {LAST_OWN}")
    return OwnCodec(name, codec.number, codec.bits, codec.distortion, codec)


_LAYOUT = Layout.of({"a": (64, 48), "b": (96, 32), "c": (7,)})
_TRIES = 200


def _deltas() -> list[AdapterState]:
    """An ordinary one, a large one, a tiny one, and one with a single number."""
    generator = np.random.default_rng(11)
    values = generator.normal(size=_LAYOUT.size).astype(np.float32)
    single = np.zeros_like(values)
    single[5] = -3.0
    return [
        AdapterState(_LAYOUT, np.asarray(each, np.float32)) for each in (values, 1e4 * values, 1e-12 * values, single)
    ]


def _round_trip(codec: Codec) -> None:
    for delta in _deltas():
        packed = codec.encode(delta)
        values = codec.decode(packed.parameters, packed.payload, _LAYOUT)
        if values.shape != (_LAYOUT.size,) or values.dtype != np.float32 or not np.isfinite(values).all():
            raise BrokenError(
                f"decoded {values.dtype} of shape {values.shape}, expected finite float32 ({_LAYOUT.size},)"
            )
        if packed.decoded is not None and packed.decoded.tobytes() != values.tobytes():
            raise BrokenError("the encoder reports other numbers than are decoded")
        most = codec.max_payload_bytes(_LAYOUT)
        if packed.size_bytes > most:
            raise BrokenError(f"made {packed.size_bytes} bytes, expected at most max_payload_bytes = {most}")


def _same_bytes(codec: Codec) -> None:
    for delta in _deltas():
        first, second = (codec.encode(delta) for _ in range(2))
        if first != second:
            raise BrokenError("the same delta gives different bytes")


def _changes_nothing(codec: Codec) -> None:
    for delta in _deltas():
        before = delta.digest()
        codec.encode(delta)
        if delta.digest() != before:
            raise BrokenError("the delta was changed in place: encode must not write to it")


def _as_stated(codec: Codec) -> str:
    delta = _deltas()[0]
    packed = codec.encode(delta)
    values = codec.decode(packed.parameters, packed.payload, _LAYOUT)
    error = float(np.square(values - delta.flat).sum() / np.square(delta.flat).sum())
    if error > 3 * codec.distortion + 1e-5:
        raise BrokenError(f"relative squared error is {error:.2g}, expected about distortion = {codec.distortion:.2g}")
    bits = 8 * packed.size_bytes / _LAYOUT.size
    if bits > 1.5 * codec.bits + 1:
        raise BrokenError(f"{bits:.2f} bits per parameter, expected about bits = {codec.bits:g}")
    return f"{bits:.2f} bits per parameter, relative squared error {error:.2g}"


def _any_bytes(codec: Codec) -> None:
    generator = np.random.default_rng(12)
    packed = codec.encode(_deltas()[0])
    for number in range(_TRIES):
        broken = _broken(packed, generator, number)
        try:
            values = codec.decode(broken.parameters, broken.payload, _LAYOUT)
        except PeerError:
            continue
        if values.shape != (_LAYOUT.size,) or not np.isfinite(values).all():
            raise BrokenError("bytes of a peer decode to numbers of another shape or that are not finite")


def _broken(packed: EncodedPayload, generator: np.random.Generator, number: int) -> EncodedPayload:
    parts = [bytearray(packed.parameters), bytearray(packed.payload)]
    part = parts[number % 2] or parts[1 - number % 2]
    if number % 3 == 0:
        del part[int(generator.integers(len(part) + 1)) :]
    elif number % 3 == 1:
        part += generator.bytes(int(generator.integers(1, 40)))
    else:
        part[int(generator.integers(len(part)))] ^= int(generator.integers(1, 256))
    return EncodedPayload(bytes(parts[0]), bytes(parts[1]))


CODEC_CHECKS: tuple[Check[Codec], ...] = (
    Check("a delta comes back finite, in its shape and within the stated size", _round_trip),
    Check("the same delta gives the same bytes", _same_bytes),
    Check("a delta is not changed", _changes_nothing),
    Check("bits and distortion are as stated", _as_stated),
    Check("any bytes of a peer give finite numbers or a PeerError", _any_bytes),
)
"""The contract of a codec."""
