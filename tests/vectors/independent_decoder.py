"""A decoder for plait's wire format, written from proto/README.md alone: plain Python, no protobuf, no numpy.

`decode(data, kind, sizes)` returns the meaning of a message as in the .json files beside it, or raises ValueError.
"""

import json
import struct
from bisect import bisect_right
from hashlib import sha256
from itertools import accumulate, pairwise

# Integer, optional integer, text, bytes, double: what each is where it is absent, and how to read it.
KINDS = {"i": (0, int), "o": (None, int), "t": ("", bytes.decode), "b": ("", bytes.hex)}
KINDS["d"] = 0.0, lambda raw: struct.unpack("<d", raw)[0]
KINDS["e"] = None, KINDS["d"][1]


def table(first, *parts):
    """Field numbers, from `first` on, to (name, kind): a letter, a table, (key, value) of a map, [kind] if repeated."""
    each = [f for p in parts for f in ([p] if isinstance(p, tuple) else [word.split(":") for word in p.split()])]
    return dict(enumerate(each, first))


SETTINGS = dict(zip((10, 13, 15, 17), table(1, "seed:i round:i done_steps:i trained:i").values(), strict=True))
SETTINGS |= table(24, "digest:b json:t steps:i judging:i")
# What the text of settings leaves out.
DEFAULTS = {"lr_schedule": "constant", "total_steps": 0, "bits": "fp32", "personal": ""}
DEFAULTS |= {"proximal": 0.0, "carry_moments": False, "without_feedback": False, "personalize": 0.0}
DEFAULTS |= {"measures_slope": False, "found_rate_factor": 1.0, "loss": "cross_entropy", "objective": "sft"}
DEFAULTS["secure_aggregation"] = False
DEFAULTS |= {"client_noise": 0.0, "client_clip": 0.0, "client_cohort": 0}
DEFAULTS |= {"record_delta": 0.0, "record_epsilon": 0.0, "record_clip": 0.0}
WORK = table(1, ("settings", SETTINGS), "broadcast:b")
OFFER = table(1, "client:t identity:b encryption:b masking:b commitment:b signature:b certificate:b endorsement:b")
ROSTER = ("roster", table(1, ("offers", [OFFER]), "bits:i unit:d size:i figures:i"))
DELIVERY = ("delivery", table(1, "sharers:b", ("parcels", ("i", "b"))))
UNMASKING = ("unmasking", table(1, "survivors:b", ("signatures", ("i", "b"))))
OPENING = ("opening", table(2, "receiver:i"))
STAGES = ROSTER, DELIVERY, ("survivors", table(1, "survivors:b", ("signatures", ("i", "b")))), UNMASKING, OPENING
MASKING = ("masking", table(1, "run_id:b purpose:t round:i attempt:b", *STAGES))
DESCRIBE = ("describe", table(1, ("settings", SETTINGS), "spec_json:t layout:b"))
TASK = table(2, DESCRIBE, ("train", WORK), ("evaluate", WORK), MASKING)
CARD = "client:t base_fingerprint:b spec_digest:b train_examples:i train_tokens:i held_out_examples:i held_out_tokens:i"
CARD = table(1, CARD, ("histogram", ("t", "i"))) | table(
    10, "max_rank:i cut_examples:i left_out_examples:i repeated_examples:i judge_examples:i judge_tokens:i"
)
EVALUATION = table(
    1,
    "client:t round:i loss:d tokens:i examples:i correct:o own_loss:e own_correct:o",
    "loss_error:e change:e change_error:e own_loss_error:e own_change:e own_change_error:e",
    "reward_margin:e own_reward_margin:e clusters:o",
    ("metric_sums", ("i", "d")),
    ("own_metric_sums", ("i", "d")),
)
REFUSAL = table(1, "client:t reason:i detail:t")
PARTS = table(1, ("parts", ("i", "b")))
MASKED = ("offer", OFFER), ("parcels", PARTS), "ready:i signature:b", ("revealed", PARTS)
MASKED = *MASKED, ("update", table(1, "values:b figures:b signature:b")), "unreadable:b"
MASKED = table(1, "client:t", *MASKED) | table(10, "opened:b")
REPLY = table(2, ("card", CARD), "update:b", ("evaluation", EVALUATION), ("refusal", REFUSAL), ("masked", MASKED))
WHO = "direction:i run_id:b round:i client:t base_fingerprint:b spec_digest:b relative_to:b result_digest:b"
WHAT = "codec:i codec_parameters:b payload_digest:b spec_json:t examples:i"
HEADER = table(1, WHO, WHAT, ("metrics", ("t", "d")))


def varint(data, at):
    if data[at] < 128:
        return data[at], at + 1
    more, end = varint(data, at + 1)
    return more << 7 | data[at] & 127, end


def fields(data):
    """(number, raw value) of every field of a message."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        value, at = (8, at) if tag & 7 == 1 else varint(data, at)
        if tag & 7:
            value, at = data[at : at + value], at + value
        if at > len(data):
            raise ValueError("truncated")
        yield tag >> 3, value


def settings(said):
    """The settings of a task; of those that the receiver holds, only what is the task's own."""
    text = said.pop("json")
    if text and sha256(text.encode()).hexdigest() != said["digest"]:
        raise ValueError("the settings have another digest")
    return {**DEFAULTS, **json.loads(text), **said} if text else said


def value_of(kind, raw):
    if kind is SETTINGS:
        return settings(message(kind, raw))
    return message(kind, raw) if isinstance(kind, dict) else KINDS[kind][1](raw)


def message(fields_of, data):
    said = {}
    for name, kind in fields_of.values():
        said[name] = KINDS[kind][0] if isinstance(kind, str) else [] if isinstance(kind, list) else {}
    for number, raw in fields(data):
        name, kind = fields_of[number]
        if isinstance(kind, tuple):
            key, value = (value_of(k, r) for k, (_, r) in zip(kind, fields(raw), strict=True))
            said[name][str(key)] = value
        elif isinstance(kind, list):
            said[name].append(value_of(kind[0], raw))
        else:
            said[name] = value_of(kind, raw)
    return said


def frequencies(costs, knots, largest):
    """Of the indices -largest ... largest of one quantiser."""
    weights = []
    for k in range(largest + 1):
        left = min(bisect_right(knots, k), len(knots) - 1) - 1
        low, rise, run = 32 * costs[left], 32 * (costs[left + 1] - costs[left]), knots[left + 1] - knots[left]
        cost = low + rise * (k - knots[left]) // run
        weights.append(int(2 ** (30 - cost % 256 / 256)) >> min(cost // 256, 30))
    weights = weights[:0:-1] + weights  # k and -k weigh the same
    found = [weight * (2**24 - len(weights)) // (sum(weights) or 1) + 1 for weight in weights]
    found[largest] += 2**24 - sum(found)
    return found


def rate(parameters, payload, sizes):
    """The numbers of a payload of codec 4, each as four bytes, the last one first."""
    bits, step, groups = struct.unpack_from("<BfB", parameters)
    h0, h1 = {2: (5, 2), 3: (11, 4), 4: (19, 4), 5: (37, 8), 6: (67, 20), 7: (157, 86), 8: (333, 242)}[bits]
    member = [parameters[6 + i // 2] >> 4 * (i % 2) & 15 for i in range(len(sizes))]
    at, books = 6 + (len(sizes) + 1) // 2, [None]
    for _ in range(groups):
        largest, knots = parameters[at] | parameters[at + 1] << 8, [0]
        while knots[-1] < largest:
            knots.append(min(largest, max(knots[-1] + 1, knots[-1] * 5 // 4)))
        shifts, costs, at = struct.unpack_from("<6b", parameters, at + 2), at + 8, at + 8 + 2 * len(knots)
        tables = [frequencies(parameters[costs + q * len(knots) :], knots, largest) for q in (0, 1)]
        books.append((largest, (shifts[:3], shifts[3:]), [[0, *accumulate(table)] for table in tables]))
    places = sorted((group, sum(sizes[:i]) + j) for i, group in enumerate(member) if group for j in range(sizes[i]))
    lanes, numbers = max(1, len(places) // 512), [bytes(4)] * sum(sizes)
    words, streams = struct.unpack(f"<{len(payload) // 4}I", payload), min(8, max(1, lanes // 64))
    ends = [*accumulate(words[: streams - 1], initial=streams - 1), len(words)]
    stacks = [list(words[start:end]) for start, end in pairwise(ends)]
    coders = [sum(stack.pop() << 32 * place for place in range(len(stack[-2:]))[::-1]) for stack in stacks]
    owner = [j for j in range(streams) for _ in range(lanes * j // streams, lanes * (j + 1) // streams)]
    states = [lane % 2**bits for lane in range(lanes)]
    for row in (places[start : start + lanes] for start in range(0, len(places), lanes)):
        for lane in sorted(range(len(row)), key=lambda lane: (row[lane][0], states[lane] & 1)):
            (largest, shifts, sums), q, j = books[row[lane][0]], states[lane] & 1, owner[lane]
            slot, stack = coders[j] % 2**24, stacks[j]
            symbol = bisect_right(sums[q], slot) - 1
            coders[j] = (sums[q][symbol + 1] - sums[q][symbol]) * (coders[j] >> 24) + slot - sums[q][symbol]
            if coders[j] < 2**32 and stack:
                coders[j] = coders[j] << 32 | stack.pop()
            k = symbol - largest
            states[lane] = states[lane] >> 1 ^ (h0 >> 1) * q ^ (h1 >> 1) * (k & 1)
            size = 2 * abs(k) - q - shifts[q][min(abs(k), 3) - 1] / 64 if k else 0.0
            numbers[row[lane][1]] = struct.pack("<f", step * (size if k >= 0 else -size))
    if any(coders) or any(stacks):
        raise ValueError("the streams do not end here")
    return numbers


def envelope(parts, sizes):
    """An envelope of an adapter whose tensors have these sizes."""
    header, payload = message(HEADER, parts[2]), parts.get(3, b"")
    codec, parameters = header["codec"], bytes.fromhex(header["codec_parameters"])
    head = struct.pack("<II", codec, len(parameters))
    if sha256(head + parameters + payload).hexdigest() != header["payload_digest"]:
        raise ValueError("the payload has another digest")
    width = {1: 0, 2: 4, 3: 2, 4: 0, 9: 4, 10: 2}[codec]
    each = [width * (codec < 9 or parameters[i // 8] >> i % 8 & 1) for i, size in enumerate(sizes) for _ in range(size)]
    numbers = [payload[end - n : end].rjust(4, b"\0") for end, n in zip(accumulate(each), each, strict=True)]
    if codec == 4:
        numbers = rate(parameters, payload, sizes)
    return {"envelope": header | {"values": [number[::-1].hex() for number in numbers]}}


def decode(data, kind, sizes=()):
    """What the bytes of an 'envelope', a 'task' or a 'reply' say."""
    parts = dict(fields(data))
    if parts.pop(1) != {"task": 3}.get(kind, 1):
        raise ValueError("unknown schema")
    if kind == "envelope":
        return envelope(parts, sizes)
    ((number, raw),) = parts.items()
    name, inner = (TASK if kind == "task" else REPLY)[number]
    return {name: value_of(inner, raw)}
