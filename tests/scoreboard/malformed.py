"""Malformed updates: every one is refused with its reason, and the adapter is that of a run without the attacker.

The attacker is an insider: enrolled, with its own key, which signs everything that it sends.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scoreboard.forged import changed, header_of, payload_of, reply_with, sealed, update_in
from scoreboard.row import Row, one_in
from scoreboard.small_federation import HONEST, FakeModel, key_of, no_waiting_for_the_disk, of_numbers, signed

from plait.adapters import AdapterState
from plait.rounds.channel import Purpose
from plait.trust.keys import NodeKey
from plait.v1 import envelope_pb2 as pb
from plait.v1 import messages_pb2 as mpb
from plait.wire import canonical
from plait.wire.codecs import CODECS, codec_for
from plait.wire.envelope import join_frame, split_frame, with_signature
from plait.wire.messages import ClientCard, Evaluation, Refusal, RefusalReason, encode_reply

SIZE = of_numbers.LAYOUT.size
A_SIZE = of_numbers.LAYOUT.slots[0].size
ME = "mallory"
KEY = key_of(ME)
# Cases that notice a missing defence.
_ALWAYS = frozenset({
    "fp32: inf at 0", "metric: own is -1e300", "fp32: -3e38 at 10", "header: examples 0",
    "one bit turned, 23 of 48 places", "size: 1000 times B alone", "card: spec_digest b's'",
})  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One thing to send instead of the honest answer."""

    name: str
    forge: Callable[[bytes], bytes | str]
    reasons: frozenset[str]  # the codes under which it may be refused
    purpose: Purpose = Purpose.TRAIN


def floats(values: np.ndarray) -> bytes:
    """As the fp32 codec packs them."""
    return values.astype("<f4").tobytes()


def honest_delta(reply: bytes) -> np.ndarray:
    return np.frombuffer(payload_of(update_in(reply)), "<f4").copy()


def case(name: str, forge: Callable[[bytes], bytes | str], *reasons: str, purpose: Purpose = Purpose.TRAIN) -> Case:
    """A case with its codes; malformed where none is given."""
    return Case(name, forge, frozenset(reasons or ("malformed",)), purpose)


def all_cases() -> list[Case]:
    makers = (replies, headers, metrics, frames, payloads, rates, flips, signatures, sizes, evaluations, cards)
    return [each for maker in makers for each in maker()]


def replies() -> Iterator[Case]:
    yield case("reply: nothing", lambda r: b"")
    yield case("reply: text", lambda r: b"hello")
    yield case("reply: one zero byte", lambda r: b"\0")
    yield case("reply: a megabyte of zeros", lambda r: bytes(1 << 20))
    yield case("reply: a schema of the future", lambda r: b"\x08\x02" + r[2:])
    yield case("reply: a schema alone", lambda r: b"\x08\x01")
    yield case("reply: bytes after the end", lambda r: r + b"\x08\x01")
    yield case("reply: an unknown field", lambda r: r + b"\x7a\x01x")
    yield case("reply: two updates", lambda r: r + r[2:])
    yield case("reply: an update and a refusal", lambda r: r + b"\x2a\x00")
    yield case("reply: an empty update", lambda r: reply_with(b""))
    yield case("reply: an update of one byte", lambda r: reply_with(b"\x08"))
    yield case("reply: random bytes as an update", lambda r: reply_with(bytes(range(256))))
    yield case("reply: an update within an update", lambda r: reply_with(r))
    yield case("reply: the update without its reply", update_in)
    yield case("reply: beyond every size", lambda r: reply_with(bytes(2 << 20)))
    for count in (1, 2, 3, 5, 9, 17, 33, 65, 129):
        yield case(f"reply: cut at byte {count}", lambda r, n=count: r[:n])
        yield case(f"reply: without its last {count} bytes", lambda r, n=count: r[:-n])
    card = ClientCard(ME, of_numbers.FINGERPRINT, b"s" * 32, 3, 30, 4, 40, {})
    yield case("reply: a description of itself", lambda r: encode_reply(card))
    yield case("reply: an evaluation", lambda r: encode_reply(Evaluation(ME, 1, 1.0, 40, None, 4)))
    for reason in RefusalReason:
        said = reason.name.lower().replace("_", "-")
        refusal = encode_reply(Refusal(ME, reason, "so it is"))
        yield case(f"reply: a refusal, {said}", lambda r, refusal=refusal: refusal, said)
    yield case("no answer: the app failed", lambda r: "ValueError at app.py:1", "no-answer")
    yield case("no answer: control characters", lambda r: "\x1b[2J\x1b]0;own\x07", "no-answer")


def headers() -> Iterator[Case]:
    """A header that says something else; signed all the same."""
    # Fields, values, codes.
    table: list[tuple[str, object, str]] = [
        ("direction", 0, "malformed"), ("direction", 2, "malformed"), ("direction", 3, "malformed"),
        ("run_id", b"", "malformed"), ("run_id", b"r" * 15, "malformed"), ("run_id", b"r" * 17, "malformed"),
        ("run_id", b"R" * 16, "wrong-run"), ("run_id", bytes(16), "wrong-run"),
        ("round", 0, "wrong-round"), ("round", 2, "wrong-round"), ("round", 3, "wrong-round"),
        ("round", 2**32 - 1, "wrong-round"),
        ("client", "", "malformed"), ("client", "x" * 129, "malformed"), ("client", "x" * 10**5, "malformed"),
        ("client", "alice", "wrong-client"), ("client", "Mallory", "wrong-client"),
        ("client", "mallory ", "wrong-client"), ("client", "../mallory", "wrong-client"),
        ("client", "m\u0430llory", "wrong-client"), ("client", "\x1b[2Jmallory", "malformed"),
        ("client", "mallory\n", "malformed"), ("client", "mallory\0", "malformed"),
        ("client", "\u202eyrollam", "malformed"), ("client", "mallory\u200b", "malformed"),
        ("base_fingerprint", b"", "malformed"), ("base_fingerprint", b"f" * 31, "malformed"),
        ("base_fingerprint", b"f" * 33, "malformed"), ("base_fingerprint", b"g" * 32, "wrong-base"),
        ("base_fingerprint", bytes(32), "wrong-base"),
        ("spec_digest", b"", "malformed"), ("spec_digest", b"s" * 31, "malformed"),
        ("spec_digest", b"s" * 33, "malformed"), ("spec_digest", b"s" * 32, "wrong-spec"),
        ("spec_digest", bytes(32), "wrong-spec"),
        ("relative_to", b"", "wrong-reference"), ("relative_to", b"a" * 16, "malformed"),
        ("relative_to", b"a" * 32, "wrong-reference"), ("relative_to", bytes(32), "wrong-reference"),
        ("result_digest", b"a" * 32, "malformed"), ("result_digest", b"a", "malformed"),
        ("spec_json", "{}", "malformed"), ("spec_json", "[" * 10**5, "malformed"),
        ("examples", 0, "weight"), ("examples", 1, "weight"), ("examples", 6, "weight"), ("examples", 8, "weight"),
        ("examples", 10**18, "weight"), ("examples", 2**63 - 1, "weight"), ("examples", 2**63, "malformed"),
        ("examples", 2**64 - 1, "malformed"),
        ("payload_digest", b"", "malformed"), ("payload_digest", b"d" * 31, "malformed"),
        ("payload_digest", b"d" * 32, "malformed"), ("payload_digest", bytes(32), "malformed"),
        ("codec_parameters", b"1", "malformed"), ("codec_parameters", bytes(10**5), "malformed"),
    ]  # fmt: skip
    for field, value, reason in table:
        shown = ascii(value) if len(ascii(value)) < 40 else f"{len(value)} long"
        yield case(f"header: {field} {shown}", lambda r, f=field, v=value: changed(r, KEY.sign, **{f: v}), reason)
    for number in (-1, 0, 1, 3, 4, 5, 8, 9, 10, 11, 99, 2**31 - 1):
        yield case(f"header: codec {number} over a float32 payload", lambda r, n=number: changed(r, KEY.sign, codec=n))

    def nothing(reply: bytes) -> bytes:
        return reply_with(with_signature(join_frame(b"", payload_of(update_in(reply))), KEY.sign))

    def alien(reply: bytes, tail: bytes) -> bytes:
        return sealed(header_of(update_in(reply)), payload_of(update_in(reply)), KEY.sign, tail=tail)

    yield case("header: none", nothing)
    yield case("header: a field of the future", lambda r: alien(r, b"\x7a\x01x"))
    yield case("header: a field twice", lambda r: alien(r, b"\x18\x01"))
    yield case("header: half a field", lambda r: alien(r, b"\x22"))


def metrics() -> Iterator[Case]:
    """Figures that no honest client could have."""

    def said(reply: bytes, entries: dict[str, float]) -> bytes:
        header = header_of(update_in(reply))
        named = {metric.key: metric.value for metric in header.metrics} | entries
        del header.metrics[:]
        header.metrics.extend(canonical.entries(pb.Metric, named))
        return sealed(header, payload_of(update_in(reply)), KEY.sign)

    figures = {"NaN": math.nan, "infinity": math.inf, "-infinity": -math.inf}
    figures |= {"1e300": 1e300, "-1e300": -1e300, "2**54": 2.0**54}
    for metric, (name, value) in itertools.product(("train_loss", "train_tokens", "own"), figures.items()):
        reason = "figure" if math.isfinite(value) else "malformed"
        yield case(f"metric: {metric} is {name}", lambda r, m=metric, v=value: said(r, {m: v}), reason)
    yield case("metric: -1 tokens", lambda r: said(r, {"train_tokens": -1.0}), "figure")
    yield case("metric: a hundred of them", lambda r: said(r, {f"m{i}": 0.0 for i in range(100)}))
    yield case("metric: a hundred thousand", lambda r: said(r, {f"m{i}": 0.0 for i in range(10**5)}))
    for name in ("", "x" * 200, "\x1b[2J", "a\nb", "\u202e"):
        yield case(f"metric: called {ascii(name)[:20]}", lambda r, n=name: said(r, {n: 0.0}))


def frames() -> Iterator[Case]:
    """An envelope whose parts do not fit."""

    def frame(reply: bytes, change: Callable[[bytes], bytes]) -> bytes:
        return reply_with(change(update_in(reply)))

    yield case("frame: no schema", lambda r: frame(r, lambda u: u[2:]))
    yield case("frame: schema 2", lambda r: frame(r, lambda u: b"\x08\x02" + u[2:]))
    yield case("frame: schema of ten bytes", lambda r: frame(r, lambda u: b"\x08" + b"\xff" * 9 + b"\x01" + u[2:]))
    yield case("frame: bytes after the end", lambda r: frame(r, lambda u: u + b"\0"))
    yield case(
        "frame: a header of four gigabytes", lambda r: frame(r, lambda u: b"\x08\x01\x12\xff\xff\xff\xff\x0f" + u[4:])
    )
    yield case("frame: a header that claims too much", lambda r: frame(r, lambda u: b"\x08\x01\x12\x7f\0"))
    yield case("frame: an empty header that is there", lambda r: frame(r, lambda u: b"\x08\x01\x12\x00" + u[2:]))
    yield case("frame: parts in another order", lambda r: frame(r, _disordered))
    yield case("frame: two payloads", lambda r: frame(r, lambda u: u + b"\x1a\x01x"))
    for part in (4, 8, 16, 32, 64, 128):
        yield case(f"frame: cut by {part} bytes", lambda r, n=part: frame(r, lambda u: u[:-n]))
        yield case(f"frame: cut at {part} bytes", lambda r, n=part: frame(r, lambda u: u[:n]))


def _disordered(update: bytes) -> bytes:
    frame = split_frame(update)
    payload, header = join_frame(b"", frame.payload)[2:], join_frame(bytes(frame.header), b"")[2:]
    return b"\x08\x01" + payload + header


def payloads() -> Iterator[Case]:
    """Numbers that are none, too few or too many of them, and some whose sums would not be finite."""

    def one(value: float, at: int) -> Callable[[bytes], bytes]:
        def forge(reply: bytes) -> bytes:
            delta = honest_delta(reply)
            delta[at] = value
            return changed(reply, KEY.sign, floats(delta))

        return forge

    for at, name in itertools.product((0, A_SIZE, SIZE - 1), ("nan", "inf", "-inf", "3e38", "-3e38")):
        value = float(name)
        yield case(f"fp32: {name} at {at}", one(value, at), "malformed" if not math.isfinite(value) else "overflow")
    yield case("fp32: all NaN", lambda r: changed(r, KEY.sign, floats(np.full(SIZE, np.nan))))
    yield case("fp32: a signalling NaN", lambda r: changed(r, KEY.sign, b"\x01\x00\x80\x7f" * SIZE))
    for count in (0, 1, SIZE - 1, SIZE + 1, 2 * SIZE, 1000 * SIZE):
        yield case(f"fp32: {count} numbers for {SIZE}", lambda r, n=count: changed(r, KEY.sign, floats(np.ones(n))))
    for extra in (1, 2, 3):
        yield case(
            f"fp32: {extra} bytes too many",
            lambda r, n=extra: changed(r, KEY.sign, payload_of(update_in(r)) + bytes(n)),
        )
    for name, bits in (("NaN", b"\xc0\x7f"), ("infinity", b"\x80\x7f"), ("-infinity", b"\x80\xff")):
        yield case(f"bf16: {name}", lambda r, b=bits: changed(r, KEY.sign, b * SIZE, codec=3))
    yield case("bf16: 3e38", lambda r: changed(r, KEY.sign, b"\x61\x7f" * SIZE, codec=3), "overflow")
    for count in (0, 1, SIZE - 1, SIZE + 1, 100 * SIZE):
        yield case(
            f"bf16: {count} numbers for {SIZE}", lambda r, n=count: changed(r, KEY.sign, b"\x80\x3f" * n, codec=3)
        )
    for name, mask in (("no mask", b""), ("a long mask", b"\1\0"), ("a tensor too many", b"\7"), ("all bits", b"\xff")):
        for codec in (9, 10):
            yield case(
                f"partial {codec}: {name}", lambda r, m=mask, c=codec: changed(r, KEY.sign, codec=c, codec_parameters=m)
            )
    yield case(
        "partial: NaN in one tensor",
        lambda r: changed(r, KEY.sign, floats(np.full(A_SIZE, np.nan)), codec=9, codec_parameters=b"\1"),
    )
    yield case("partial: a bomb", lambda r: changed(r, KEY.sign, bytes(10**5), codec=10, codec_parameters=b"\1"))
    yield case("unchanged, with a payload", lambda r: changed(r, KEY.sign, b"x", codec=1))


def rates() -> Iterator[Case]:
    """The entropy-coded format, whose decoder does most."""
    values = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    packed = codec_for("2").encode(AdapterState(of_numbers.LAYOUT, values))
    number = CODECS["rate"].number

    def rate(payload: bytes, parameters: bytes) -> Callable[[bytes], bytes]:
        return lambda r: changed(r, KEY.sign, payload, codec=number, codec_parameters=parameters)

    def at(position: int, new: bytes) -> bytes:
        return packed.parameters[:position] + new + packed.parameters[position + len(new) :]

    yield case("rate: no parameters", rate(packed.payload, b""))
    yield case("rate: parameters cut", rate(packed.payload, packed.parameters[:-1]))
    yield case("rate: parameters too long", rate(packed.payload, packed.parameters + b"0"))
    for states in (0, 1, 9, 255):
        yield case(f"rate: a trellis of 2**{states} states", rate(packed.payload, at(0, bytes([states]))))
    for name, step in (("zero", 0.0), ("NaN", math.nan), ("3e38", 3e38), ("-1", -1.0), ("infinity", math.inf)):
        yield case(f"rate: a step of {name}", rate(packed.payload, at(1, struct.pack("<f", step))))
    for groups in (0, 255):
        yield case(f"rate: {groups} groups", rate(packed.payload, at(5, bytes([groups]))))
    for group in (0, 9, 255):
        yield case(f"rate: a tensor of group {group}", rate(packed.payload, at(6, bytes([group]))))
    yield case("rate: half a word", rate(packed.payload[:-1], packed.parameters))
    yield case("rate: words after the end", rate(packed.payload + b"\xff" * 8, packed.parameters))
    yield case("rate: a stream of ones", rate(b"\xff" * len(packed.payload), packed.parameters))
    yield case("rate: a payload beyond its bound", rate(bytes(2**20), packed.parameters))


def flips() -> Iterator[Case]:
    """One bit turned on the way: in what is signed, in the signature, in the payload."""
    reasons = ("malformed", "direction", "wrong-client", "wrong-round", "wrong-run", "wrong-base", "wrong-spec",
               "wrong-reference", "signature", "weight", "figure")  # fmt: skip
    for part in range(48):

        def flip(reply: bytes, part: int = part) -> bytes:
            update = bytearray(update_in(reply))
            bit = part * 8 * len(update) // 48 + part % 8
            update[bit // 8] ^= 1 << bit % 8
            return reply_with(bytes(update))

        yield case(f"one bit turned, {part + 1} of 48 places", flip, *reasons)


def signatures() -> Iterator[Case]:
    """Not signed by the attacker's own key, or not over this."""
    other = NodeKey.generate()

    def framed(reply: bytes, signature: bytes) -> bytes:
        frame = split_frame(update_in(reply))
        return reply_with(join_frame(bytes(frame.header), frame.payload, signature))

    yield case("signature: none", lambda r: framed(r, b""), "signature")
    yield case("signature: zeros", lambda r: framed(r, bytes(64)), "signature")
    yield case("signature: ones", lambda r: framed(r, b"\xff" * 64), "signature")
    yield case("signature: 63 bytes", lambda r: framed(r, bytes(63)), "signature", "malformed")
    yield case("signature: 65 bytes", lambda r: framed(r, bytes(65)), "signature", "malformed")
    yield case("signature: a stranger's", lambda r: changed(r, other.sign), "signature")
    yield case("signature: another client's", lambda r: changed(r, key_of("alice").sign), "signature")
    yield case("signature: over something else", lambda r: framed(r, KEY.sign(b"something else")), "signature")
    yield case("signature: over the payload", lambda r: framed(r, KEY.sign(payload_of(update_in(r)))), "signature")


def sizes() -> Iterator[Case]:
    """Finite, well-formed, and far larger than what the others sent."""

    def scaled(a: float, b: float) -> Callable[[bytes], bytes]:
        def forge(reply: bytes) -> bytes:
            delta = honest_delta(reply)
            delta[:A_SIZE] *= a
            delta[A_SIZE:] *= b
            return changed(reply, KEY.sign, floats(delta))

        return forge

    for factor in (1e2, 1e3, 1e6, 1e12, -1e3):
        yield case(f"size: {factor:g} times the update", scaled(factor, factor), "norm")
        yield case(f"size: {factor:g} times A alone", scaled(factor, 1), "norm")
        yield case(f"size: {factor:g} times B alone", scaled(1, factor), "norm")
    for turn in (1e2, 1e3, 1e4):
        yield case(f"size: the gauge turned by {turn:g}", scaled(turn, 1 / turn), "norm")
        yield case(f"size: the gauge turned by {1 / turn:g}", scaled(1 / turn, turn), "norm")
    noise = np.random.default_rng(0).normal(scale=1e3, size=SIZE)
    yield case("size: noise", lambda r: changed(r, KEY.sign, floats(noise)), "norm")


def said(part: str, name: str, value: object) -> Callable[[bytes], bytes]:
    """Another value in a description or an evaluation."""

    def forge(reply: bytes) -> bytes:
        message = mpb.Reply.FromString(reply)
        setattr(getattr(message, part), name, value)
        return message.SerializeToString(deterministic=True)

    return forge


def evaluations() -> Iterator[Case]:
    table: list[tuple[str, object, str]] = [
        ("client", "alice", "wrong-client"), ("client", "", "malformed"), ("client", "\x1b[2J", "malformed"),
        ("round", 0, "wrong-round"), ("round", 7, "wrong-round"), ("loss", math.nan, "malformed"),
        ("loss", math.inf, "malformed"), ("loss", 1e300, "figure"), ("tokens", 0, "weight"),
        ("tokens", 41, "weight"), ("tokens", 2**62, "weight"), ("examples", 0, "weight"),
        ("examples", 5, "weight"), ("correct", 5, "malformed"),
        ("loss_error", -1.0, "malformed"), ("loss_error", math.nan, "malformed"), ("loss_error", 1e300, "figure"),
        ("change", math.inf, "malformed"), ("change", -1e300, "figure"), ("own_change", 0.5, "figure"),
        ("own_loss_error", 0.5, "figure"), ("own_change_error", 0.5, "figure"),
    ]  # fmt: skip
    for name, value, reason in table:
        yield case(f"evaluation: {name} {value!a}", said("evaluation", name, value), reason, purpose=Purpose.EVALUATE)
    yield case("evaluation: an update", lambda r: reply_with(b"x"), "malformed", purpose=Purpose.EVALUATE)
    yield case("evaluation: nothing", lambda r: b"", "malformed", purpose=Purpose.EVALUATE)


def cards() -> Iterator[Case]:
    """Descriptions with which no client can take part."""

    for name, value in (
        ("client", "alice"), ("client", ""), ("client", "x" * 129), ("client", "\x1b[2J"), ("client", "../../x"),
        ("base_fingerprint", b"g" * 32), ("base_fingerprint", b""), ("spec_digest", b"s" * 32), ("spec_digest", b"s"),
        ("train_examples", 0), ("train_examples", 2**63), ("held_out_examples", 0), ("held_out_tokens", 2**63),
    ):  # fmt: skip
        yield case(
            f"card: {name} {ascii(value)[:40]}", said("card", name, value), "turned-away", purpose=Purpose.DESCRIBE
        )
    yield case("card: nothing", lambda r: b"", "turned-away", purpose=Purpose.DESCRIBE)
    yield case("card: an update", lambda r: reply_with(b"x"), "turned-away", purpose=Purpose.DESCRIBE)


@no_waiting_for_the_disk()
def run(*, full: bool, scratch: Path) -> Row:
    cases = all_cases()
    assert len({each.name for each in cases}) == len(cases)
    assert {each.name for each in cases} >= _ALWAYS
    if not full:
        # At least one of each reason, whatever is added to the list.
        of_each_reason = {each.reasons: each.name for each in reversed(cases)}.values()
        cases = [each for each in cases if one_in(6, each.name) or each.name in {*_ALWAYS, *of_each_reason}]
    # The runs differ in nothing but the attacker.
    expected = signed(scratch / "without", HONEST, may_be_away=("nobody",), clients=4, cohort_size=4, rounds=1).run()
    failures: list[str] = []
    codes: set[str] = set()
    for number, each in enumerate(cases):
        federation = signed(scratch / f"{number}", {**HONEST, ME: FakeModel(3.0, 7)}, may_be_away=(ME,), rounds=1)
        channel = federation.channel

        def tamper(asked, reply, each=each):
            return each.forge(reply) if asked.client == ME and asked.purpose is each.purpose else reply

        channel.tamper = tamper
        try:
            state = federation.run()
        except Exception as error:
            failures.append(f"{each.name}: the run ended with {type(error).__name__}: {error}")
            continue
        found = {event["reason"] for event in federation.of_kind("update_refused") if event["client"] == ME}
        if federation.of_kind("client_turned_away"):
            found.add("turned-away")
        codes |= found
        if not found & each.reasons or found - each.reasons:
            failures.append(f"{each.name}: refused as {sorted(found)}, expected {sorted(each.reasons)}")
        elif state.adapter.digest() != expected.adapter.digest() or state.shadow.digest() != expected.shadow.digest():
            if each.purpose is Purpose.TRAIN:
                failures.append(f"{each.name}: the adapter is another than without the attacker")
            elif not federation.of_kind("round_finished"):
                failures.append(f"{each.name}: no round was finished")
    passed, figures = len(cases) - len(failures), {"reason codes": len(codes)}
    return Row("malformed updates", len(cases), passed, figures, failures, least=200 if full else 40)
