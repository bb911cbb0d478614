"""Named float arrays as one message, and back.

    6 bytes   plait, 1
    4 bytes   CRC-32 of all that follows, little-endian, as the length
    4 bytes   length of the header
    n bytes   zlib of JSON: {"tensors": [[name, shape, dtype], …], "parts": [[codec, bytes of its parameters, of its
              payload], …], "from": digest, "to": digest}
    the rest  of every part parameters and payload

The parts are added up in float32, from zeros on, or from an adapter that the receiver holds: then `from` is that one's
digest in hexadecimal, and there may be no tensors. Knows no round.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32, Layout
from plait.adapters.safetensors import MAX_DIMENSIONS, MAX_ELEMENTS, parse_object, shown
from plait.compress.downlink import take_step
from plait.compress.feedback import pack
from plait.errors import ConfigError, DataError, PeerError
from plait.system.text import Json
from plait.wire.bounds import inflated
from plait.wire.codec import Codec
from plait.wire.codecs import CODECS, Rate, codec_numbered
from plait.wire.codecs.rate import GREATEST_BITS, LEAST_BITS
from plait.wire.encoding import EncodedDelta, encode_delta

MAGIC = b"plait\x01"
MAX_NUMBERS = 1 << 28
"""Of a message that is read, unless the caller has another bound: a gibibyte in float32."""
MAX_HEADER_BYTES = 1 << 22
MAX_PARTS = 64
DIGEST_BYTES = 32
RAW = "raw"
_HEAD = struct.Struct("<6sII")
_FURTHEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": np.inf, "float64": np.inf}
"""The types of numbers, and how large they get."""

Form = Mapping[str, tuple[tuple[int, ...], str]]
"""Shapes and types by name, in the sender's order."""
Arrays = Mapping[str, Any]
"""Arrays of numpy, or tensors of torch, by name."""


class CompressedDelta(bytes):
    """A message, and what it lost.

    Attributes:
        distortion: ||x - x̂||² / ||x||² of the encoded numbers x and the decoded x̂.
        bits: sent for each number, the message's head included.
    """

    distortion: float = 0.0
    bits: float = 0.0


@dataclass(frozen=True)
class Part:
    """Numbers packed by a codec."""

    codec: int
    parameters: bytes
    payload: bytes

    @classmethod
    def of(cls, encoded: EncodedDelta) -> Part:
        """As a codec has packed them."""
        return cls(encoded.codec.number, encoded.packed.parameters, encoded.packed.payload)

    @property
    def size_bytes(self) -> int:
        """The total size."""
        return len(self.parameters) + len(self.payload)


@dataclass(frozen=True)
class Content:
    """A message's content; `form` is empty and the digests too where it has none."""

    parts: Sequence[Part]
    form: Form = field(default_factory=dict[str, tuple[tuple[int, ...], str]])
    start: bytes = b""
    result: bytes = b""

    def to_bytes(self) -> bytes:
        """The message."""
        head: dict[str, object] = {"parts": [[p.codec, len(p.parameters), len(p.payload)] for p in self.parts]}
        if self.form:
            head["tensors"] = [[name, list(shape), dtype] for name, (shape, dtype) in self.form.items()]
        head |= {key: digest.hex() for key, digest in (("from", self.start), ("to", self.result)) if digest}
        packed = zlib.compress(json.dumps(head, separators=(",", ":")).encode(), 9)
        body = b"".join([packed, *(piece for part in self.parts for piece in (part.parameters, part.payload))])
        length = len(packed).to_bytes(4, "little")
        return MAGIC + zlib.crc32(body, zlib.crc32(length)).to_bytes(4, "little") + length + body

    @classmethod
    def of(cls, data: bytes) -> Content:
        """The inverse of `to_bytes`; no number is unpacked yet.

        Raises:
            PeerError: it is no such message.
        """
        if len(data) < _HEAD.size or not data.startswith(MAGIC):
            raise PeerError(f"{len(data)} bytes do not begin as a compressed message of this version")
        _, checksum, length = _HEAD.unpack_from(data)
        if zlib.crc32(memoryview(data)[_HEAD.size - 4 :]) != checksum:
            raise PeerError(f"compressed message of {len(data)} bytes is damaged: its checksum is another")
        what = "header of a compressed message"
        text = inflated(what, data[_HEAD.size : _HEAD.size + length], MAX_HEADER_BYTES)
        head = parse_object(text, what=what, max_bytes=MAX_HEADER_BYTES)
        if unknown := head.keys() - {"parts", "tensors", "from", "to"}:
            raise PeerError(f"{what} has an unknown key {shown(min(unknown))}")
        parts = _parts(head.get("parts"), memoryview(data)[_HEAD.size + length :])
        digests = [_digest(head.get(key, "")) for key in ("from", "to")]
        return cls(parts, _form(head.get("tensors", [])), *digests)

    def applied(self, held: AdapterState) -> list[AdapterState]:
        """Where each part leads from an adapter.

        Raises:
            PeerError: a part is not of this adapter.
        """
        steps: list[AdapterState] = []
        for part in self.parts:
            codec = codec_numbered(part.codec)
            most = codec.max_payload_bytes(held.layout)
            if part.size_bytes > most:
                raise PeerError(f"{codec.name} part has {part.size_bytes} bytes, expected at most {most}")
            delta = AdapterState(held.layout, codec.decode(part.parameters, part.payload, held.layout))
            held = take_step(held, delta, codec.name)
            steps.append(held)
        return steps


class Compressor:
    """Packs one sender's deltas, and keeps what each has not delivered for the next.

    Nothing is drawn at random: on one machine the same deltas in the same order give the same messages.

    Args:
        bits: for each number, 1 to 8, or "raw" for float32 as it is.
        feedback: whether the error of a message goes with the next one; without, nothing is kept.
    """

    def __init__(self, bits: float | str | Codec = 1, *, feedback: bool = True) -> None:
        self.codec = codec_of(bits)
        self.owed: AdapterState | None = None
        self._feedback = feedback
        self._form: Form = {}

    def encode(self, delta: Arrays) -> CompressedDelta:
        """The message of a change: float arrays of numpy, or tensors of torch, by name.

        Raises:
            DataError: one is not of floats, or holds a NaN or an infinity; nothing has changed then.
            ConfigError: names or shapes are not those of the deltas before.
        """
        form, state = state_of(delta)
        if self.owed is not None and self.owed.layout.digest != state.layout.digest:
            raise ConfigError("delta has other names or shapes than the ones before: give it a Compressor of its own")
        if self._feedback:
            encoded, self.owed = pack(state, self.codec, owed=self.owed)
        else:
            encoded = encode_delta(state, self.codec)
        self._form = form
        message = CompressedDelta(Content([Part.of(encoded)], form).to_bytes())
        message.distortion = encoded.encoding.distortion or 0.0
        message.bits = 8 * len(message) / max(1, state.layout.size)
        return message

    def state_dict(self) -> dict[str, Float32]:
        """What is owed, in float32 by name; empty before the first message."""
        return {} if self.owed is None else arrays_of(self.owed, _in_float32(self.owed, self._form))

    def load_state_dict(self, state: Mapping[str, Float32]) -> None:
        """Go on from where another one was; DataError if these are no float arrays."""
        self._form, self.owed = state_of(state) if state else ({}, None)


def decompress(message: bytes, like: Arrays | None = None, *, max_numbers: int = MAX_NUMBERS) -> dict[str, Any]:
    """The arrays of a message from anybody.

    Args:
        message: of a `Compressor`, or a `Broadcaster`'s to a client that holds nothing.
        like: arrays or tensors of the expected names and shapes; the result has their order, types and devices. Without
            them it is numpy's arrays of the sender's types (float32 for bfloat16, which numpy lacks).
        max_numbers: the bound of numbers, and so of memory and time, without `like`.

    Raises:
        PeerError: the bytes are no such message, are too many numbers, or are not like `like`.
    """
    content = Content.of(message)
    if content.start:
        raise PeerError("message leads on from an adapter that its receiver holds: use a Receiver")
    if like is not None:
        check_like(content.form, like)
        max_numbers = max(max_numbers, sum(_size(each) for each in like.values()))
    zeros = AdapterState.zeros(layout_of(content, max_numbers))
    return arrays_of((content.applied(zeros) or [zeros])[-1], content.form, like)


def state_of(arrays: Arrays) -> tuple[Form, AdapterState]:
    """The form of arrays and their numbers in float32.

    Raises:
        DataError: one is not of floats, or holds a NaN or an infinity.
    """
    found = {name: _array(name, value) for name, value in arrays.items()}
    form = {name: (array.shape, dtype) for name, (array, dtype) in found.items()}
    layout = Layout.of({name: shape for name, (shape, _) in form.items()})
    flat = np.empty(layout.size, np.float32)
    for slot in layout.slots:
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            flat[slot.offset : slot.offset + slot.size] = found[slot.name][0].reshape(-1)
        if not np.isfinite(flat[slot.offset : slot.offset + slot.size]).all():
            raise DataError(f"tensor {shown(slot.name)} holds NaN or infinity, or more than float32 can hold")
    return form, AdapterState(layout, flat)


def arrays_of(state: AdapterState, form: Form, like: Arrays | None = None) -> dict[str, Any]:
    """Arrays with a state's numbers, of the types of a form, or as other ones are.

    Raises:
        PeerError: a number is larger than its type can hold.
    """
    made: dict[str, Any] = {}
    for name in form if like is None else like:
        shape, dtype = form[name]
        model = None if like is None else like[name]
        dtype = dtype if model is None else type_of(model)
        values = state[name].reshape(shape)
        if np.abs(values).max(initial=0) > _FURTHEST.get(dtype, np.inf):
            raise PeerError(f"tensor {shown(name)} holds a number that {dtype} cannot hold")
        if hasattr(model, "new_tensor"):
            made[name] = cast("Any", model).new_tensor(np.array(values))
        else:
            made[name] = values.astype(np.float32 if dtype == "bfloat16" and model is None else dtype)
    return made


def type_of(array: object) -> str:
    """The type of an array's numbers, by numpy's and torch's name."""
    return str(cast("Any", array).dtype).removeprefix("torch.")


def is_float(array: object) -> bool:
    """Whether an array or tensor can be compressed."""
    return type_of(array) in _FURTHEST


def check_like(form: Form, like: Arrays) -> None:
    """Raise PeerError unless the form has the names and shapes of arrays."""
    if different := form.keys() ^ like.keys():
        name = min(different)
        raise PeerError(f"tensor {shown(name)} is {'missing' if name in like else 'not one of those expected'}")
    for name, (shape, _) in form.items():
        if shape != tuple(like[name].shape):
            raise PeerError(f"shape of {shown(name)} is {shape}, expected {tuple(like[name].shape)}")


def layout_of(content: Content, max_numbers: int) -> Layout:
    """The layout of a received message; PeerError if its parts have more numbers together."""
    layout = Layout.of({name: shape for name, (shape, _) in content.form.items()})
    check_size(layout.size, len(content.parts), max_numbers)
    return layout


def check_size(size: int, parts: int, max_numbers: int) -> None:
    """Raise PeerError if so many parts have more numbers together, which bounds memory and time."""
    if max(1, parts) * size > max_numbers:
        raise PeerError(f"message has {parts} parts of {size} numbers, expected at most {max_numbers} in all")


def codec_of(bits: float | str | Codec) -> Codec:
    """The codec of so many bits; ConfigError if there is none."""
    if bits == RAW:
        return CODECS["fp32"]
    if isinstance(bits, int | float) and LEAST_BITS <= bits <= GREATEST_BITS:
        return Rate(float(bits))
    if isinstance(bits, int | float | str):
        raise ConfigError(f"bits is {bits!r}, expected {LEAST_BITS} to {GREATEST_BITS}, or '{RAW}'")
    return bits


def _in_float32(state: AdapterState, form: Form) -> Form:
    names = form or state.layout.by_name
    return {name: (state.layout.by_name[name].shape, "float32") for name in names}


def _size(array: Any) -> int:
    return int(np.prod(array.shape, dtype=np.int64))


def _array(name: str, value: Any) -> tuple[NDArray[np.generic], str]:
    if hasattr(value, "detach"):  # a tensor, without importing its library
        tensor, dtype = value.detach(), type_of(value)
        value = (tensor.float() if dtype in ("float16", "bfloat16") else tensor).cpu().numpy()
    else:
        value = np.asarray(value)
        dtype = type_of(value)
    if dtype not in _FURTHEST:
        raise DataError(f"tensor {shown(name)} is {dtype}, expected one of {', '.join(_FURTHEST)}")
    return value, dtype


def _whole(value: object) -> int:
    """A whole number within bounds, else -1."""
    return value if type(value) is int and 0 <= value <= MAX_ELEMENTS else -1


def _parts(value: Json, body: memoryview) -> list[Part]:
    found: list[Part] = []
    for each in value if isinstance(value, list) and len(value) <= MAX_PARTS else [None]:
        codec, parameters, payload = map(_whole, each if isinstance(each, list) and len(each) == 3 else (-1, -1, -1))
        if min(codec, parameters, payload) < 0 or parameters + payload > len(body):
            raise PeerError(f"parts of a compressed message are {shown(value)}, expected at most {MAX_PARTS} triples")
        found.append(Part(codec, bytes(body[:parameters]), bytes(body[parameters : parameters + payload])))
        body = body[parameters + payload :]
    if len(body):
        raise PeerError(f"compressed message has {len(body)} bytes that belong to no part")
    return found


def _form(value: Json) -> Form:
    form: dict[str, tuple[tuple[int, ...], str]] = {}
    for each in value if isinstance(value, list) else [None]:
        name, shape, dtype = each if isinstance(each, list) and len(each) == 3 else (None, None, None)
        counts = tuple(map(_whole, shape)) if isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS else (-1,)
        if not isinstance(name, str) or name in form or dtype not in _FURTHEST or min(counts, default=0) < 0:
            raise PeerError(f"compressed message describes a tensor as {shown(each)}, expected name, shape and type")
        form[name] = counts, str(dtype)
    return form


def _digest(value: Json) -> bytes:
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else b"?"
    except ValueError:
        digest = b"?"
    if len(digest) not in (0, DIGEST_BYTES):
        raise PeerError(f"compressed message names an adapter {shown(value)}, expected {DIGEST_BYTES} bytes")
    return digest
