"""Bytes from outside: each ends in a PeerError naming the fault, or in a valid object; nothing else."""

import json
import struct
from collections.abc import Iterable
from hashlib import sha256

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.v1 import envelope_pb2 as pb
from plait.v1 import messages_pb2 as mpb
from plait.wire.canonical import entries
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, join_frame, open_envelope, payload_digest, seal
from plait.wire.messages import (
    ClientCard,
    TrainTask,
    decode_reply,
    decode_task,
    encode_reply,
    encode_task,
)
from plait.wire.settings import Settings

LAYOUT = Layout.of({"a": (3,)})
DELTA = AdapterState(LAYOUT, np.array([1.0, -2.0, 0.5], np.float32))
METRICS = {"loss": 1.0, "tokens": 2.0}
UPDATE = Header(Direction.UPDATE, b"r" * 16, 1, "al", b"b" * 32, b"s" * 32, b"a" * 32, examples=7, metrics=METRICS)
GOOD = seal(UPDATE, encode_delta(DELTA, codec_for("fp32"))).data
PAYLOAD = struct.pack("<3f", 1, -2, 0.5)


def envelope(payload: bytes = PAYLOAD, tail: bytes = b"", **fields: object) -> bytes:
    """A good update but for the named header fields, the payload (whose digest is right) and bytes after the header."""
    header = pb.Header.FromString(pb.Envelope.FromString(GOOD).header)
    for name, value in fields.items():
        setattr(header, name, value)
    if "payload_digest" not in fields:
        header.payload_digest = payload_digest(header.codec, header.codec_parameters, payload)
    return join_frame(header.SerializeToString(deterministic=True) + tail, payload)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def of_metrics(found: Iterable[pb.Metric]) -> bytes:
    header = pb.Header.FromString(pb.Envelope.FromString(GOOD).header)
    del header.metrics[:]
    header.metrics.extend(found)
    return join_frame(header.SerializeToString(deterministic=True), PAYLOAD)


def with_metrics(count: int) -> bytes:
    return of_metrics(entries(pb.Metric, {f"m{i}": 0.0 for i in range(count)}))


def metric(value: float) -> bytes:
    return of_metrics([pb.Metric(key="loss", value=value)])


def metric_names(*names: str) -> bytes:
    return of_metrics(pb.Metric(key=name, value=1.0) for name in names)


RATE = encode_delta(DELTA, codec_for("4")).packed


def rate(payload: bytes = RATE.payload, **changes: bytes) -> bytes:
    """An update of the codec `rate`, with some bytes of its parameters replaced: at0=b"..." from the first on."""
    changed = bytearray(RATE.parameters)
    for place, value in changes.items():
        at = int(place.removeprefix("at"))
        changed[at : at + len(value)] = value
    return envelope(payload, codec=4, codec_parameters=bytes(changed))


HEADER = bytes(pb.Envelope.FromString(GOOD).header)
MIDDLE = len(GOOD) - len(PAYLOAD)  # where the payload begins
ENVELOPES = {
    "nothing": (b"", "does not begin with its schema version"),
    "only a version": (b"\x08\x01", "run id|direction"),
    "version 2": (b"\x08\x02" + GOOD[2:], "schema version of the envelope is 2, expected 1"),
    "version in two bytes": (b"\x08\x81\x00" + GOOD[2:], "is not a varint"),
    "version twice": (b"\x08\x01" + GOOD, "belong to no part"),
    "an unknown part": (GOOD + b"\x2a\x01x", "belong to no part"),
    "payload twice": (GOOD + GOOD[MIDDLE - 2 :], "belong to no part"),
    "payload before header": (b"\x08\x01" + GOOD[MIDDLE - 2 :] + GOOD[2 : MIDDLE - 2], "belong to no part"),
    "a short signature": (join_frame(HEADER, PAYLOAD, b"x" * 63), "signature has 63 bytes, expected 64 or none"),
    "a header that is no message": (join_frame(b"\xff" * 20, PAYLOAD), "is not protobuf"),
    "a header over 2 MiB": (join_frame(bytes(2**21 + 1), b""), "has 2097153 bytes, expected at most 2097152"),
    "an unknown header field": (envelope(tail=b"\x78\x01"), "unknown, repeated or disordered fields"),
    "header fields out of order": (join_frame(HEADER[2:] + HEADER[:2], PAYLOAD), "unknown, repeated or disordered"),
    "a default spelt out": (envelope(tail=b"\x62\x00"), "unknown, repeated or disordered fields"),
    "a name that is not UTF-8": (join_frame(HEADER.replace(b"al", b"\xff\xfe"), PAYLOAD), "is not protobuf"),
    "no direction": (envelope(direction=0), "direction is 0, expected one of 1 .UPDATE., 2 .BROADCAST."),
    "an update posing as a broadcast": (envelope(direction=2), "digest of the adapter after has 0 bytes"),
    "a client name of 129 characters": (envelope(client="x" * 129), "client name has 129 characters"),
    "a client name that clears the screen": (envelope(client="\x1b[2J"), "expected printable characters"),
    "an update that claims a result": (envelope(result_digest=b"a" * 32), "digest of the adapter after has 32 bytes"),
    "an update with a spec": (envelope(spec_json="{}"), "update carries an adapter spec"),
    "65 metrics": (with_metrics(65), "metrics has 65 entries, expected at most 64"),
    "a metric twice": (
        metric_names("loss", "loss"),
        "metrics has 'loss' after 'loss': keys must ascend",
    ),
    "a metric without a value": (of_metrics([pb.Metric(key="loss")]), "metrics has an entry without key or value"),
    "no codec": (envelope(codec=0), "codec of the payload is 0, expected one of"),
    "another codec, lying": (envelope(codec=3), "bf16 payload has 12 bytes, expected at most 6"),
    "unchanged, with a payload": (envelope(codec=1), "unchanged payload has 12 bytes, expected at most 0"),
    "a payload of a hundred kilobytes": (envelope(bytes(10**5)), "fp32 payload has 100000 bytes, expected at most 12"),
    "parameters that were not asked for": (envelope(floats(1, 2), codec_parameters=b"1234"), "4 of parameters"),
    "a large parameter block": (
        envelope(b"", codec_parameters=bytes(10**6)),
        "payload has 1000000 bytes, expected at most",
    ),
    "fp32 NaN": (envelope(floats(1, float("nan"), 3)), "fp32 payload holds NaN or infinity"),
    "partial without a mask": (envelope(codec=9), "fp32_partial parameters have 0 bytes, expected 1"),
    "partial, a tensor too many": (envelope(codec=9, codec_parameters=b"\3"), "name more than the 1 tensors"),
    "partial, numbers of a tensor that does not travel": (envelope(codec=9, codec_parameters=b"\0"), "12 bytes"),
    "rate without parameters": (envelope(RATE.payload, codec=4), "codec parameters have 0 bytes, expected at least 7"),
    "rate, parameters cut": (
        envelope(RATE.payload, codec=4, codec_parameters=RATE.parameters[:-1]),
        f"codec parameters have {len(RATE.parameters) - 1} bytes, expected at least {len(RATE.parameters)}",
    ),
    "rate, a trellis of 2 states": (rate(at0=b"\x01"), r"trellis has 2\*\*1 states, expected 2\*\*2 to 2\*\*8"),
    "rate, 255 groups": (rate(at5=b"\xff"), r"tensors belong to groups \[1\], expected 1 to 255"),
    "rate, no index": (rate(at7=b"\x00\x00"), "largest index is 0, expected 1 to 4096"),
    "rate, indices without costs": (rate(at7=b"\x00\x10"), "codec parameters have .* expected at least 91"),
    "rate, a stream of ones": (rate(b"\xff" * 4), "does not end with its last symbol"),
    "rate, a payload beyond its bound": (rate(bytes(2**17 + 4)), "rate payload has .* expected at most 131078"),
}


def test_the_good_envelope_is_good():
    assert open_envelope(GOOD, layout=LAYOUT).header == UPDATE
    assert envelope() == GOOD


@pytest.mark.parametrize("name", ENVELOPES)
def test_hostile_envelope_is_refused(name):
    data, complaint = ENVELOPES[name]
    with pytest.raises(PeerError, match=complaint):
        open_envelope(data, layout=LAYOUT)


def test_every_truncation_of_an_envelope_is_refused():
    for end in range(len(GOOD)):
        with pytest.raises(PeerError):
            open_envelope(GOOD[:end], layout=LAYOUT)


def test_every_flipped_bit_of_a_payload_is_noticed():
    for bit in range(8 * MIDDLE, 8 * len(GOOD)):
        flipped = bytearray(GOOD)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PeerError, match="digest of the payload"):
            open_envelope(bytes(flipped), layout=LAYOUT)


@pytest.mark.parametrize("other", [Layout.of({}), Layout.of({"a": (2,)}), Layout.of({"a": (4,)})])
def test_an_envelope_of_another_layout_is_refused(other):
    with pytest.raises(PeerError, match="fp32 payload has 12 bytes"):
        open_envelope(GOOD, layout=other)


def test_every_flipped_bit_of_a_rate_envelope_is_noticed_or_harmless():
    good = rate()
    refused = 0
    for part, size in (("codec_parameters", len(RATE.parameters)), ("payload", len(RATE.payload))):
        for bit in range(8 * size):
            changed = {"codec_parameters": bytearray(RATE.parameters), "payload": bytearray(RATE.payload)}
            changed[part][bit // 8] ^= 1 << bit % 8
            data = envelope(bytes(changed["payload"]), codec=4, codec_parameters=bytes(changed["codec_parameters"]))
            assert data != good
            try:
                assert np.isfinite(open_envelope(data, layout=LAYOUT).delta.flat).all()
            except PeerError:
                refused += 1
    assert refused > 50


SETTINGS = Settings(4, 2, 1, 128, 1e-3, 0.0, 1.0, 0.1, 16, 0)
TRAIN = b"".join(encode_task(TrainTask(SETTINGS, GOOD)))
CARD = ClientCard("bob", b"b" * 32, b"s" * 32, 1, 2, 3, 4, {"email": 1})
CARD_BYTES = encode_reply(CARD)


def task(**fields: object) -> bytes:
    """The task with other settings: those of the task alone in its message, the rest in the text."""
    message = mpb.Task.FromString(TRAIN)
    said = json.loads(message.train.settings.json)
    for name, value in fields.items():
        if name in ("seed", "round", "done_steps", "trained", "steps"):
            setattr(message.train.settings, name, value)
        else:
            said[name] = value
    return with_text(json.dumps(said, sort_keys=True, separators=(",", ":")), message)


def with_text(text: str, message: mpb.Task | None = None, digest: bytes | None = None) -> bytes:
    message = message or mpb.Task.FromString(TRAIN)
    message.train.settings.json = text
    message.train.settings.digest = sha256(text.encode()).digest() if digest is None else digest
    return message.SerializeToString(deterministic=True)


TEXT = SETTINGS.text
LACKING = json.dumps(
    {name: value for name, value in json.loads(TEXT).items() if name != "seq_len"}, separators=(",", ":")
)
TASKS = {
    "nothing": (b"", "schema version of the task is 0, expected 3"),
    "version 4 with fields of the future": (b"\x08\x04\x7a\x00", "schema version of the task is 4, expected 3"),
    "a version alone": (b"\x08\x03", "task is empty"),
    "an envelope": (GOOD, "schema version of the task is 1|is not protobuf"),
    "cut": (TRAIN[:-1], "is not protobuf"),
    "bytes after the end": (TRAIN + b"\x08\x03", "unknown, repeated or disordered"),
    "two works": (TRAIN + b"\x12\x00", "unknown, repeated or disordered"),
    "too large": (b"\0" * 2000, "task has 2000 bytes, expected at most 1000"),
    "no settings": (b"\x08\x03\x1a\x00", "digest of the settings has 0 bytes, expected 32"),
    "settings under an unknown digest": (with_text("", digest=b"d" * 32), "settings 6464646464646464 are not held"),
    "settings under another's digest": (with_text(TEXT, digest=b"d" * 32), "digest of the settings is"),
    "settings that are no JSON": (with_text("{"), "settings is not JSON"),
    "settings that are a list": (with_text(f"[{TEXT}]"), "settings holds"),
    "settings with half of a surrogate pair": (with_text(TEXT[:-1] + ',"bits":"\\ud800"}'), "bits is"),
    "settings with spaces": (with_text(TEXT.replace(":", ": ")), "not in canonical form"),
    "a setting twice": (with_text(TEXT[:-1] + ',"seq_len":128}'), "gives key 'seq_len' twice"),
    "a setting of the future": (task(zeal=1), "settings hold 'zeal'"),
    "a setting of the task in the text": (with_text(TEXT[:-1] + ',"seed":1}'), "settings hold 'seed'"),
    "a setting too few": (with_text(LACKING), "settings lack 'seq_len'"),
    "a default that is said": (task(carry_moments=False), "not in canonical form"),
    "a whole number as text": (task(seq_len="128"), "seq len is '128', expected a whole number"),
    "an unknown side": (task(trained=3), "trained side is 3"),
    "no steps": (task(local_steps=0), "local steps is 0"),
    "a learning rate that is no number": (task(learning_rate=float("nan")), "holds NaN, which is not finite"),
    "a codec name with a newline": (task(bits="a\nb"), "expected printable characters"),
}


def test_settings_of_more_than_16_kib_are_refused_unread():
    data = with_text("[" * (1 << 15))
    with pytest.raises(PeerError, match="settings has 32768 bytes, expected at most 16384"):
        decode_task(data, max_bytes=1 << 20)


@pytest.mark.parametrize("deep", ["[" * 8000 + "]" * 8000, TEXT.replace(":128", ":" + "1" * 5000)], ids=["", "digits"])
def test_settings_that_would_exhaust_their_parser_are_refused(deep):
    with pytest.raises(PeerError, match="settings is not JSON"):
        decode_task(with_text(deep), max_bytes=1 << 20)


@pytest.mark.parametrize("name", TASKS)
def test_hostile_task_is_refused(name):
    data, complaint = TASKS[name]
    with pytest.raises(PeerError, match=complaint):
        decode_task(data, max_bytes=1000)


def reply(**answer: object) -> bytes:
    return mpb.Reply(schema=1, **answer).SerializeToString(deterministic=True)


def evaluation(**fields: object) -> bytes:
    return reply(evaluation=mpb.Evaluation(**{"client": "bob", "loss": 1.0, "examples": 4, "tokens": 9} | fields))


REPLIES = {
    "nothing": (b"", "schema version of the reply is 0, expected 1"),
    "a version alone": (b"\x08\x01", "reply is empty"),
    "cut": (CARD_BYTES[:-1], "is not protobuf"),
    "two answers": (CARD_BYTES + b"\x1a\x00", "unknown, repeated or disordered"),
    "an unknown nested field": (b"\x08\x01\x2a\x02\x78\x01", "unknown, repeated or disordered"),
    "too large": (b"\0" * 1001, "reply has 1001 bytes, expected at most 1000"),
    "a card without a name": (reply(card=mpb.ClientCard()), "client name has 0 characters"),
    "a histogram beyond counting": (
        reply(
            card=mpb.ClientCard(
                client="b",
                base_fingerprint=bytes(32),
                spec_digest=bytes(32),
                histogram=entries(mpb.HistogramEntry, {"a": 2**63}),
            )
        ),
        "histogram of 'a' is 9223372036854775808",
    ),
    "a loss that is no number": (evaluation(loss=float("nan")), "loss is nan"),
    "more correct than there are": (evaluation(correct=5), "correct examples is 5, expected 0 to 4"),
    "a refusal without a reason": (
        reply(refusal=mpb.Refusal(client="b")),
        "reason of the refusal is 0, expected one of",
    ),
    "a refusal that clears the screen": (
        reply(refusal=mpb.Refusal(client="b", reason=1, detail="\x1b[2J")),
        "detail of the refusal is .* expected printable",
    ),
}


@pytest.mark.parametrize("name", REPLIES)
def test_hostile_reply_is_refused(name):
    data, complaint = REPLIES[name]
    with pytest.raises(PeerError, match=complaint):
        decode_reply(data, max_bytes=1000)
