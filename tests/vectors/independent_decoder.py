"""A decoder for plait's wire format, written from proto/README.md alone: plain Python, no protobuf, no numpy.

`decode(data)` gives what a message says as the .json files beside it do, or raises ValueError.
"""

import struct
from hashlib import sha256

INTEGER, DOUBLE, TEXT, BYTES = "integer", "double", "text", "bytes"
SETTINGS = {
    1: ("local_steps", INTEGER),
    2: ("batch_size", INTEGER),
    3: ("gradient_accumulation_steps", INTEGER),
    4: ("seq_len", INTEGER),
    5: ("learning_rate", DOUBLE),
    6: ("weight_decay", DOUBLE),
    7: ("max_grad_norm", DOUBLE),
    8: ("held_out_fraction", DOUBLE),
    9: ("max_held_out_sequences", INTEGER),
    10: ("seed", INTEGER),
    11: ("warmup_steps", INTEGER),
    12: ("lr_schedule", INTEGER),
    13: ("round", INTEGER),
    14: ("total_steps", INTEGER),
    15: ("done_steps", INTEGER),
    16: ("wire", TEXT),
}
WORK = {1: ("settings", SETTINGS), 2: ("broadcast", BYTES)}
TASK = {2: ("describe", {1: ("settings", SETTINGS), 2: ("spec_json", TEXT)}), 3: ("train", WORK), 4: ("evaluate", WORK)}
CARD = {
    1: ("client", TEXT),
    2: ("base_fingerprint", BYTES),
    3: ("spec_digest", BYTES),
    4: ("train_examples", INTEGER),
    5: ("train_tokens", INTEGER),
    6: ("held_out_examples", INTEGER),
    7: ("held_out_tokens", INTEGER),
    8: ("histogram", (TEXT, INTEGER)),
    9: ("wire", [TEXT]),
}
EVALUATION = {
    1: ("client", TEXT),
    2: ("round", INTEGER),
    3: ("loss", DOUBLE),
    4: ("tokens", INTEGER),
    5: ("examples", INTEGER),
    6: ("correct", None),
}
REFUSAL = {1: ("client", TEXT), 2: ("reason", INTEGER), 3: ("detail", TEXT)}
REPLY = {2: ("card", CARD), 3: ("update", BYTES), 4: ("evaluation", EVALUATION), 5: ("refusal", REFUSAL)}
HEADER = {
    1: ("direction", INTEGER),
    2: ("run_id", BYTES),
    3: ("round", INTEGER),
    4: ("client", TEXT),
    5: ("base_fingerprint", BYTES),
    6: ("spec_digest", BYTES),
    7: ("relative_to", BYTES),
    8: ("result_digest", BYTES),
    9: ("codec", INTEGER),
    10: ("codec_parameters", BYTES),
    11: ("payload_digest", BYTES),
    12: ("spec_json", TEXT),
    13: ("examples", INTEGER),
    14: ("metrics", (TEXT, DOUBLE)),
}
DEFAULTS = {INTEGER: 0, DOUBLE: 0.0, TEXT: "", BYTES: "", None: None}


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
    if kind in (INTEGER, None):
        return raw
    if kind == DOUBLE:
        return struct.unpack("<d", raw)[0]
    return raw.decode() if kind == TEXT else raw.hex() if kind == BYTES else message(kind, raw)


def message(table, data):
    """A message by its table: kinds are scalars, nested tables, (key, value) for maps, [kind] for repeated fields."""
    said = {}
    for name, kind in table.values():
        said[name] = {} if isinstance(kind, (tuple, dict)) else [] if isinstance(kind, list) else DEFAULTS[kind]
    for number, raw in fields(data):
        name, kind = table[number]
        if isinstance(kind, tuple):
            key, entry = (value_of(k, r) for k, (_, r) in zip(kind, fields(raw), strict=True))
            said[name][key] = entry
        elif isinstance(kind, list):
            said[name].append(value_of(kind[0], raw))
        else:
            said[name] = value_of(kind, raw)
    return said


def envelope(parts, size):
    """An envelope of an adapter with `size` elements."""
    header, payload = message(HEADER, parts[2]), parts.get(3, b"")
    parameters = bytes.fromhex(header["codec_parameters"])
    hashed = struct.pack("<II", header["codec"], len(parameters)) + parameters + payload
    if sha256(hashed).hexdigest() != header["payload_digest"]:
        raise ValueError("the payload has another digest")
    width = {1: 0, 2: 4, 3: 2}[header["codec"]]
    if len(payload) != width * size:
        raise ValueError("the payload has another length")
    words = [payload[width * i : width * (i + 1)].rjust(4, b"\0") for i in range(size)]
    return {"envelope": header | {"values": [word[::-1].hex() for word in words]}}


def decode(data, kind, size=0):
    """What the bytes of an 'envelope', a 'task' or a 'reply' say."""
    parts = dict(fields(data))
    if parts.pop(1) != 1:
        raise ValueError("unknown schema")
    if kind == "envelope":
        return envelope(parts, size)
    ((number, raw),) = parts.items()
    name, inner = (TASK if kind == "task" else REPLY)[number]
    return {name: value_of(inner, raw)}
