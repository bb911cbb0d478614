"""A server's adapter for the clients of anybody's loop, and a client's end of it (`downlink` has the reasons)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout, subtract
from plait.compress.downlink import START_BITS, Downlink, take_step
from plait.compress.feedback import pack, unshrunk
from plait.compress.message import (
    DIGEST_BYTES,
    MAX_NUMBERS,
    MAX_PARTS,
    Arrays,
    CompressedDelta,
    Content,
    Form,
    Part,
    arrays_of,
    check_like,
    check_size,
    codec_of,
    layout_of,
    state_of,
)
from plait.errors import ConfigError, PeerError
from plait.wire.codecs import CODECS, Rate
from plait.wire.encoding import EncodedDelta, encode_delta

DOWN_BITS = 1.5
"""Of a `Broadcaster`'s steps, if nothing else is asked for."""


class Broadcaster:
    """A server's adapter for its clients: any of them gets to the same shadow of it, whatever it holds.

    The first adapter goes out at 8 bits, once to each client, which keeps it.

    Args:
        bits: for each number of a step, 1 to 8, or "raw". The default is finer than a `Compressor`'s, because the
            errors of clients average out, and all train from the shadow.
        rounds: about how many adapters there will be; keyframes are finer in long runs.
    """

    def __init__(self, bits: float | str = DOWN_BITS, *, rounds: int = 20) -> None:
        self._codec, self._rounds, self._number = codec_of(bits), rounds, 0
        self._form: Form = {}
        self._master = self._anchor = self._shadow = AdapterState(Layout.of({}), np.empty(0, np.float32))
        # By the digest of an adapter, b"" for none: what leads from there to the shadow.
        self._paths: dict[bytes, tuple[Part, ...]] = {}
        self._first: tuple[Part, ...] = ()
        self._messages: dict[bytes, CompressedDelta] = {}

    @property
    def adapter(self) -> dict[str, Any]:
        """The shadow, as arrays of numpy: what every client holds that got the newest message."""
        return arrays_of(self._shadow, self._form)

    @property
    def digest(self) -> bytes:
        """That of the shadow, 32 bytes."""
        return self._shadow.digest()

    def update(self, adapter: Arrays, *, gap: float = 1.0) -> None:
        """Move the shadow towards the server's adapter; the same adapter again moves nothing.

        Args:
            adapter: float arrays of numpy, or tensors of torch, by name.
            gap: rounds from one visit of a client to its next, on average; 1 if all take part in every round.

        Raises:
            DataError: one is not of floats, or holds a NaN or an infinity.
        """
        form, master = state_of(adapter)
        if self._paths and form == self._form and master.digest() == self._master.digest():
            return
        if not self._paths or form != self._form or not isinstance(self._codec, Rate):
            self._begin(form, master)
        else:
            downlink = Downlink(gap, max(self._rounds, self._number + 1))
            keyframe = downlink.keyframe(self._codec, self._number)
            if gap * self._codec.bits > keyframe.bits:
                encoded = encode_delta(unshrunk(subtract(master, self._anchor), keyframe), keyframe)
                self._lead({self._anchor.digest(): (), b"": self._first}, encoded, self._anchor)
            else:
                encoded, _ = pack(subtract(master, self._shadow), self._codec)
                self._lead(self._paths, encoded, self._shadow)
        self._master, self._number = master, self._number + 1
        self._messages.clear()

    def encode(self, holds: bytes = b"") -> CompressedDelta:
        """The message for a client.

        Args:
            holds: the digests of the adapters that it holds (`Receiver.holds`); none for one that holds nothing.
        """
        if not self._paths:
            raise ConfigError("there is no adapter to send yet: call update first")
        starts = [b"", *(holds[at : at + DIGEST_BYTES] for at in range(0, len(holds), DIGEST_BYTES))]
        start = min(filter(self._paths.__contains__, starts), key=lambda each: _size_bytes(self._paths[each]))
        if start not in self._messages:
            form = {} if start else self._form
            message = CompressedDelta(Content(self._paths[start], form, start, self.digest).to_bytes())
            error = np.subtract(self._master.flat, self._shadow.flat, dtype=np.float64)
            message.distortion = float(error @ error) / max(float(np.square(self._master.flat).sum()), 1e-300)
            message.bits = 8 * len(message) / max(1, self._shadow.layout.size)
            self._messages[start] = message
        return self._messages[start]

    def _begin(self, form: Form, master: AdapterState) -> None:
        codec = Rate(START_BITS) if isinstance(self._codec, Rate) else self._codec
        encoded = encode_delta(master, codec)
        self._form, self._anchor, self._first = form, AdapterState.zeros(master.layout), (Part.of(encoded),)
        self._lead({b"": ()}, encoded, self._anchor)
        self._anchor = self._shadow

    def _lead(self, paths: Mapping[bytes, tuple[Part, ...]], encoded: EncodedDelta, origin: AdapterState) -> None:
        """Let all `paths`, which lead to `origin`, go on by a step to the new shadow."""
        part = Part.of(encoded)
        self._shadow = take_step(origin, encoded.delta, encoded.codec.name)
        longer = {start: (*path, part) for start, path in paths.items()}
        most, size = 4 * origin.layout.size, max(1, origin.layout.size)
        self._paths = {
            start: path
            for start, path in longer.items()
            if _size_bytes(path) < most and len(path) <= min(MAX_PARTS, MAX_NUMBERS // size)
        }
        if b"" not in self._paths:
            self._paths[b""] = (Part.of(encode_delta(self._shadow, CODECS["fp32"])),)
        self._paths[self.digest] = ()


class NotHeldError(PeerError):
    """A message leads on from an adapter that its receiver does not hold: ask for one from nothing."""


class Receiver:
    """A client's end of a `Broadcaster`. It holds the newest adapter, and the first one that it got, as it was sent."""

    def __init__(self) -> None:
        self._form: Form = {}
        self._held: AdapterState | None = None
        self._first = b""  # the message of the first part alone
        self._first_digest = b""

    @property
    def holds(self) -> bytes:
        """The digests of the adapters that it can start from: 32 bytes each, at most two, none at first."""
        newest = self._held.digest() if self._held else b""
        return newest + (self._first_digest if self._first_digest != newest else b"")

    @property
    def digest(self) -> bytes:
        """That of the newest adapter; empty without one."""
        return self._held.digest() if self._held else b""

    def decode(self, message: bytes, like: Arrays | None = None, *, max_numbers: int = MAX_NUMBERS) -> dict[str, Any]:
        """The adapter that a message leads to, with the arguments of `decompress`.

        Raises:
            NotHeldError: it leads on from another adapter; nothing has changed then.
            PeerError: the bytes are no such message, are too many numbers, or are not like `like`.
        """
        content = Content.of(message)
        form = self._form if content.start else content.form
        if like is not None and form:
            check_like(form, like)
        start = self._start(content, max_numbers)
        check_size(start.layout.size, len(content.parts), max_numbers)
        steps = content.applied(start)
        result = steps[-1] if steps else start
        if content.result and result.digest() != content.result:
            raise PeerError("message does not lead to the adapter that it names")
        found = arrays_of(result, form, like)
        if not content.start and content.parts:
            self._first = Content(content.parts[:1], content.form).to_bytes()
            self._first_digest = steps[0].digest()
        self._form, self._held = form, result
        return found

    def _start(self, content: Content, max_numbers: int) -> AdapterState:
        if not content.start:
            return AdapterState.zeros(layout_of(content, max_numbers))
        if self._held and content.start == self._held.digest():
            return self._held
        if self._first and content.start == self._first_digest:
            first = Content.of(self._first)
            return first.applied(AdapterState.zeros(layout_of(first, max_numbers)))[-1]
        raise NotHeldError("message leads on from an adapter that is not held here")

    def state_dict(self) -> dict[str, NDArray[np.uint8]]:
        """What it holds, as arrays of bytes; empty before the first message."""
        if not self._held:
            return {}
        held = Content([Part.of(encode_delta(self._held, CODECS["fp32"]))], self._form).to_bytes()
        return {"first": np.frombuffer(self._first, np.uint8), "held": np.frombuffer(held, np.uint8)}

    def load_state_dict(self, state: Mapping[str, NDArray[np.uint8]], *, max_numbers: int = MAX_NUMBERS) -> None:
        """Go on from where another one was; PeerError if this is no such state."""
        ends: dict[str, tuple[Form, AdapterState]] = {}
        for name, array in state.items():
            content = Content.of(array.tobytes())
            zeros = AdapterState.zeros(layout_of(content, max_numbers))
            ends[name] = content.form, (content.applied(zeros) or [zeros])[-1]
        self.__init__()
        if ends:
            self._form, self._held = ends["held"]
            self._first, self._first_digest = state["first"].tobytes(), ends["first"][1].digest()


def _size_bytes(path: tuple[Part, ...]) -> int:
    return sum(part.size_bytes for part in path)
