"""A decoder for plait's wire format, written from proto/README.md alone: plain Python, no protobuf, no numpy.

`decode(data, kind, sizes)` gives what a message says as the .json files beside it do, or raises ValueError.
"""

import struct
from hashlib import sha256

DEFAULTS = {"i": 0, "d": 0.0, "t": "", "b": "", "o": None}  # integer, double, text, bytes, optional integer


def table(fields, first=1):
    """Field numbers to (name, kind); a kind is a letter, a table, (key, value) for a map, or [kind] if it repeats."""
    return {number: (name, kind) for number, (name, kind) in enumerate(fields, first)}


def plain(text):
    return [tuple(field.split(":")) for field in text.split()]


SETTINGS = table(
    plain("local_steps:i batch_size:i gradient_accumulation_steps:i seq_len:i learning_rate:d weight_decay:d")
    + plain("max_grad_norm:d held_out_fraction:d max_held_out_sequences:i seed:i warmup_steps:i lr_schedule:i round:i")
    + plain("total_steps:i done_steps:i wire:t")
)
DESCRIBE = table([("settings", SETTINGS), ("spec_json", "t")])
WORK = table([("settings", SETTINGS), ("broadcast", "b")])
TASK = table([("describe", DESCRIBE), ("train", WORK), ("evaluate", WORK)], 2)
SIZES = "train_examples:i train_tokens:i held_out_examples:i held_out_tokens:i"
CARD = table([*plain("client:t base_fingerprint:b spec_digest:b " + SIZES), ("histogram", ("t", "i")), ("wire", ["t"])])
EVALUATION = table(plain("client:t round:i loss:d tokens:i examples:i correct:o"))
REFUSAL = table(plain("client:t reason:i detail:t"))
REPLY = table([("card", CARD), ("update", "b"), ("evaluation", EVALUATION), ("refusal", REFUSAL)], 2)
DIGESTS = "base_fingerprint:b spec_digest:b relative_to:b result_digest:b"
PACKING = "codec:i codec_parameters:b payload_digest:b spec_json:t examples:i"
HEADER = table([*plain(f"direction:i run_id:b round:i client:t {DIGESTS} {PACKING}"), ("metrics", ("t", "d"))])


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def fields(data):
    """(number, raw value) of every field of a message."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        else:
            size, at = (8, at) if tag & 7 == 1 else varint(data, at)
            value, at = data[at : at + size], at + size
        if at > len(data):
            raise ValueError("truncated")
        yield tag >> 3, value


def value_of(kind, raw):
    if kind == "d":
        return struct.unpack("<d", raw)[0]
    return raw if kind in "io" else raw.decode() if kind == "t" else raw.hex() if kind == "b" else None


def message(fields_of, data):
    said = {}
    for name, kind in fields_of.values():
        said[name] = DEFAULTS[kind] if isinstance(kind, str) else [] if isinstance(kind, list) else {}
    for number, raw in fields(data):
        name, kind = fields_of[number]
        if isinstance(kind, tuple):
            key, entry = (value_of(k, r) for k, (_, r) in zip(kind, fields(raw), strict=True))
            said[name][key] = entry
        elif isinstance(kind, list):
            said[name].append(value_of(kind[0], raw))
        else:
            said[name] = message(kind, raw) if isinstance(kind, dict) else value_of(kind, raw)
    return said


def envelope(parts, sizes):
    """An envelope of an adapter whose tensors have these sizes."""
    header, payload = message(HEADER, parts[2]), parts.get(3, b"")
    parameters = bytes.fromhex(header["codec_parameters"])
    hashed = struct.pack("<II", header["codec"], len(parameters)) + parameters + payload
    if sha256(hashed).hexdigest() != header["payload_digest"]:
        raise ValueError("the payload has another digest")
    width = {1: 0, 2: 4, 3: 2}[header["codec"]]
    if len(payload) != width * sum(sizes):
        raise ValueError("the payload has another length")
    words = [payload[width * i : width * (i + 1)].rjust(4, b"\0") for i in range(sum(sizes))]
    return {"envelope": header | {"values": [word[::-1].hex() for word in words]}}


def decode(data, kind, sizes=()):
    """What the bytes of an 'envelope', a 'task' or a 'reply' say."""
    parts = dict(fields(data))
    if parts.pop(1) != 1:
        raise ValueError("unknown schema")
    if kind == "envelope":
        return envelope(parts, sizes)
    ((number, raw),) = parts.items()
    name, inner = (TASK if kind == "task" else REPLY)[number]
    return {name: message(inner, raw) if isinstance(inner, dict) else value_of(inner, raw)}
