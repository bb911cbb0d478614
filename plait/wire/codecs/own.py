"""A user's own codec: its number on the wire lies in the experimental range, and what it decodes is checked.

Bytes come from peers, so whatever such a codec does with them, its caller gets finite numbers of the right shape or a
`PeerError`. Knows not where a part was found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from plait.adapters import AdapterState, Layout
from plait.adapters.state import Float32
from plait.errors import ConfigError, PeerError
from plait.own_code import instance_of, located_errors
from plait.settings.choice import with_options
from plait.wire.codec import Codec, EncodedPayload

FIRST_OWN, LAST_OWN = 1000, 1999
"""The numbers of experimental codecs (proto/README.md): no version of plait gives one of them a format."""


@dataclass(frozen=True)
class OwnCodec:
    """A user's codec, with checks, under its name in the settings without options."""

    name: str
    inner: Codec

    @property
    def number(self) -> int:
        """See `Codec`."""
        return self.inner.number

    @property
    def bits(self) -> float:
        """See `Codec`."""
        return self.inner.bits

    @property
    def distortion(self) -> float:
        """See `Codec`."""
        return self.inner.distortion

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

    def with_options(self, given: dict[str, str]) -> OwnCodec:
        """The codec with some of its options set.

        Raises:
            ConfigError: it has no such option, or the value is out of range.
        """
        return replace(self, inner=with_options(self.inner, given, what=f"codec '{self.name}'"))


def as_codec(part: object, *, name: str) -> OwnCodec:
    """What a name stands for, as a codec: a class without arguments, or a value.

    Raises:
        ConfigError: it lacks a member of `Codec`, or its number is not an experimental one.
    """
    part = instance_of(part, what=f"codec '{name}'")
    members = ("number", "bits", "distortion", "encode", "decode", "max_payload_bytes")
    if missing := [member for member in members if not hasattr(part, member)]:
        raise ConfigError(f"codec '{name}' has no {', '.join(missing)}, expected all of plait.wire.codec.Codec")
    codec = cast("Codec", part)
    if not FIRST_OWN <= codec.number <= LAST_OWN:
        raise ConfigError(f"number of codec '{name}' is {codec.number}, expected {FIRST_OWN} to {LAST_OWN}")
    return OwnCodec(name, codec)
