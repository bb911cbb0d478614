"""A delta in an envelope: a header that describes it, its numbers, packed by a codec, and a signature.

The frame is the canonical bytes of plait.v1.Envelope, read and written by hand, because protobuf's own classes copy a
payload of many megabytes several times. The signature covers the header, which holds the payload's digest. Specified in
proto/README.md; what violates it, here or at the sender, is a PeerError.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, cast

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.v1 import envelope_pb2 as pb
from plait.wire import bounds, canonical
from plait.wire.canonical import SCHEMA, check_schema
from plait.wire.codec import DECODED
from plait.wire.codecs import Rate, codec_numbered
from plait.wire.encoding import EncodedDelta, Encoding, bits_per_parameter

MAX_FRAME_BYTES = 2**31 - 1  # the limit of protobuf libraries

# Tag bytes: field number << 3 | wire type (0 varint, 2 length-delimited).
_SCHEMA_TAG = 1 << 3
_PART_TAGS = (2 << 3 | 2, 3 << 3 | 2, 4 << 3 | 2)


@dataclass(frozen=True)
class Frame:
    """The parts of an envelope, as views of its bytes; an absent part is empty."""

    header: memoryview
    payload: memoryview
    signature: memoryview


def join_frame(header: bytes, payload: bytes | memoryview, signature: bytes = b"") -> bytes:
    """The bytes of an envelope with these parts."""
    pieces: list[bytes | memoryview] = [bytes((_SCHEMA_TAG, SCHEMA))]
    for tag, part in zip(_PART_TAGS, (header, payload, signature), strict=True):
        if len(part):
            pieces += [bytes((tag,)), varint(len(part)), part]
    size_bytes = sum(len(piece) for piece in pieces)
    if size_bytes > MAX_FRAME_BYTES:
        raise PeerError(f"envelope would have {size_bytes} bytes, expected at most {MAX_FRAME_BYTES}")
    return b"".join(pieces)


def split_frame(data: bytes) -> Frame:
    """Split an envelope into its parts."""
    view = memoryview(data).toreadonly()
    if not view or view[0] != _SCHEMA_TAG:
        raise PeerError(f"envelope of {len(view)} bytes does not begin with its schema version")
    schema, position = _read_varint(view, 1)
    check_schema("envelope", schema)
    parts: list[memoryview] = []
    for tag in _PART_TAGS:
        part = view[position:position]
        if position < len(view) and view[position] == tag:
            length, start = _read_varint(view, position + 1)
            position = start + length
            if not 0 < length <= len(view) - start:
                raise PeerError(f"part {tag >> 3} of the envelope claims {length} bytes, got {len(view) - start}")
            part = view[start:position]
        parts.append(part)
    if position != len(view):
        raise PeerError(f"envelope has {len(view) - position} trailing bytes that belong to no part")
    return Frame(*parts)


def varint(value: int) -> bytes:
    """A non-negative integer in protobuf's encoding, seven bits per byte, lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """Value and end of the varint at `position`; five bytes hold every length below 2 GiB."""
    value = 0
    for shift, byte in enumerate(view[position : position + 5]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            if shift and not byte:
                break
            return value, position + shift + 1
    raise PeerError(f"number at byte {position} of the envelope is not a varint of at most 5 bytes")


MAX_HEADER_BYTES = 1 << 21
SIGNED_DOMAIN = b"plait.v1.envelope\0"
"""What stands before a header in the bytes that are signed, so that they are of nothing else."""


EPSILON = "record_epsilon"
"""The metric of an update whose client's records are private: what these have cost so far, and the only one then."""


class Direction(IntEnum):
    """Direction of an envelope."""

    UPDATE = 1
    BROADCAST = 2


@dataclass(frozen=True)
class Header:
    """Everything about a delta except its numbers.

    A whole adapter is relative to no digest. `client` is an update's sender, or a broadcast's addressee, empty for
    several; `result_digest` and `spec_json` are of broadcasts only, `examples` of updates.
    """

    direction: Direction
    run_id: bytes
    round: int
    client: str
    base_fingerprint: bytes
    spec_digest: bytes
    relative_to: bytes = b""
    result_digest: bytes = b""
    examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    spec_json: str = ""


@dataclass(frozen=True)
class Sealed:
    """An envelope ready to send, and the delta as the receiver will decode it, bit for bit."""

    data: bytes
    header: Header
    delta: AdapterState
    encoding: Encoding


@dataclass(frozen=True)
class Received:
    """An envelope that came in, with its header read and its numbers still packed.

    `signed` are the bytes that a signature covers; the payload's digest, of codec, parameters and payload, is in them.
    """

    header: Header
    signed: bytes
    signature: bytes
    codec: int
    parameters: bytes
    payload: memoryview
    payload_digest: bytes
    size_bytes: int


@dataclass(frozen=True)
class Opened:
    """A received envelope, checked; see `Received`."""

    header: Header
    delta: AdapterState
    encoding: Encoding
    signed: bytes
    signature: bytes


def seal(header: Header, encoded: EncodedDelta) -> Sealed:
    """Put a packed delta into an envelope."""
    _check(header)
    packed = encoded.packed
    digest = payload_digest(encoded.codec.number, packed.parameters, packed.payload)
    if packed.decoded is not None:
        DECODED.add(digest + encoded.delta.layout.digest, encoded.delta.flat)
    message = _message(header, encoded.codec.number, packed.parameters, digest)
    data = join_frame(canonical.to_bytes(message), packed.payload)
    return Sealed(data, header, encoded.delta, replace(encoded.encoding, envelope_bytes=len(data)))


def with_spec(data: bytes, spec_json: str) -> bytes:
    """An own broadcast with the spec, for a receiver that may not hold it; its numbers stay packed."""
    received = read_envelope(data, max_bytes=len(data))
    header = replace(received.header, spec_json=spec_json)
    _check(header)
    message = _message(header, received.codec, received.parameters, received.payload_digest)
    return join_frame(canonical.to_bytes(message), bytes(received.payload))


def read_envelope(data: bytes, *, max_bytes: int) -> Received:
    """Read an envelope's header, without touching its payload."""
    if len(data) > max_bytes:
        raise PeerError(f"envelope has {len(data)} bytes, expected at most {max_bytes}")
    frame = split_frame(data)
    signature = bounds.exact_length("signature", bytes(frame.signature), bounds.SIGNATURE_BYTES, or_empty=True)
    what, header_bytes = "header of the envelope", bytes(frame.header)
    message = canonical.parse(pb.Header, header_bytes, what, max_bytes=MAX_HEADER_BYTES)
    canonical.check_canonical(message, header_bytes, what)
    values = canonical.values_of(message, Header)
    values["direction"] = bounds.member("direction", message.direction, Direction)
    values["metrics"] = canonical.table_of(message.metrics, "metrics")
    header = Header(**values)
    bounds.exact_length("digest of the payload", message.payload_digest, bounds.DIGEST_BYTES)
    _check(header)
    return Received(
        header=header,
        signed=SIGNED_DOMAIN + header_bytes,
        signature=signature,
        codec=message.codec,
        parameters=message.codec_parameters,
        payload=frame.payload,
        payload_digest=message.payload_digest,
        size_bytes=len(data),
    )


def read_header(data: bytes, *, max_bytes: int) -> Header:
    """The header alone."""
    return read_envelope(data, max_bytes=max_bytes).header


def unpack(received: Received, *, layout: Layout) -> Opened:
    """Unpack the delta of an envelope, in memory bounded by the envelope and `layout`."""
    codec = codec_numbered(received.codec)
    parameters, payload = received.parameters, received.payload
    payload_bytes = len(parameters) + len(payload)
    most = codec.max_payload_bytes(layout)
    if payload_bytes > most:
        raise PeerError(f"{codec.name} payload has {payload_bytes} bytes, expected at most {most}")
    digest = payload_digest(codec.number, parameters, payload)
    if digest != received.payload_digest:
        raise PeerError(f"digest of the payload is {digest.hex()}, expected {received.payload_digest.hex()}")
    started = time.perf_counter()
    # Of the others some decode as fast as they are found, and what a user's own makes of bytes may depend on options.
    is_kept = isinstance(codec, Rate)
    if is_kept and (known := DECODED.find(digest + layout.digest)) is not None:
        delta = AdapterState(layout, known)
    else:
        delta = AdapterState(layout, codec.decode(parameters, payload, layout))
        if is_kept:
            DECODED.add(digest + layout.digest, delta.flat)
    encoding = replace(measure(received, layout=layout), codec_s=time.perf_counter() - started)
    return Opened(received.header, delta, encoding, received.signed, received.signature)


def open_envelope(data: bytes, *, layout: Layout) -> Opened:
    """Read an envelope and unpack its delta."""
    return unpack(read_envelope(data, max_bytes=len(data)), layout=layout)


def measure(received: Received, *, layout: Layout) -> Encoding:
    """What an envelope costs, without unpacking it."""
    payload_bytes = len(received.parameters) + len(received.payload)
    bits = bits_per_parameter(payload_bytes, layout)
    return Encoding(codec_numbered(received.codec).name, payload_bytes, received.size_bytes, bits, None, 0.0)


def payload_digest(codec_number: int, parameters: bytes, payload: bytes | memoryview) -> bytes:
    """SHA-256 (32 bytes) over codec, parameters and payload, as proto/README.md defines it."""
    hasher = hashlib.sha256(codec_number.to_bytes(4, "little") + len(parameters).to_bytes(4, "little") + parameters)
    hasher.update(payload)
    return hasher.digest()


def _message(header: Header, codec_number: int, parameters: bytes, digest: bytes) -> pb.Header:
    values: dict[str, Any] = dict(vars(header))
    values["direction"] = f"DIRECTION_{header.direction.name}"
    values["metrics"] = canonical.entries(pb.Metric, header.metrics)
    codec = cast("pb.Codec", codec_number)
    return pb.Header(**values, codec=codec, codec_parameters=parameters, payload_digest=digest)


def _check(header: Header) -> None:
    update = header.direction is Direction.UPDATE
    bounds.exact_length("run id", header.run_id, bounds.RUN_ID_BYTES)
    bounds.integer("round", header.round, maximum=bounds.MAX_STEPS)
    bounds.name("client name", header.client, or_empty=not update)
    bounds.exact_length("base fingerprint", header.base_fingerprint, bounds.DIGEST_BYTES)
    bounds.exact_length("digest of the adapter spec", header.spec_digest, bounds.DIGEST_BYTES)
    bounds.exact_length("digest of the adapter before", header.relative_to, bounds.DIGEST_BYTES, or_empty=True)
    bounds.exact_length("digest of the adapter after", header.result_digest, 0 if update else bounds.DIGEST_BYTES)
    bounds.integer("number of examples", header.examples, maximum=bounds.MAX_COUNT if update else 0)
    bounds.spec_text(header.spec_json)
    if update and header.spec_json:
        raise PeerError(f"update carries an adapter spec of {len(header.spec_json)} characters; only broadcasts may")
    bounds.entries("metrics", header.metrics, bounds.MAX_METRICS)
    for key, value in header.metrics.items():
        bounds.finite(f"metric {key!r}", value)


def read_signed(signed: bytes) -> Header:
    """The header in the bytes that a signature covers."""
    if not signed.startswith(SIGNED_DOMAIN):
        raise PeerError(f"{len(signed)} signed bytes do not begin with {SIGNED_DOMAIN!r}")
    header = signed[len(SIGNED_DOMAIN) :]
    return read_header(join_frame(header, b"", b""), max_bytes=MAX_HEADER_BYTES)


def with_signature(data: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The same envelope, signed: `sign` makes 64 bytes from those to sign."""
    frame = split_frame(data)
    header = bytes(frame.header)
    return join_frame(header, frame.payload, sign(SIGNED_DOMAIN + header))
