"""Replay, tampering, a wrong base, round or node: none of a thousand of each is accepted, the adapter is unaffected.

The forgers are insiders with their own keys; an attacker who only tampers in transit has none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from scoreboard.row import Row
from scoreboard.small_federation import HONEST, FakeModel, borrowed, key_of, no_waiting_for_the_disk, signed

from plait.rounds.channel import Purpose
from plait.v1 import envelope_pb2 as epb
from plait.v1 import federation_pb2 as pb
from plait.v1 import messages_pb2 as mpb
from plait.wire.envelope import join_frame, payload_digest, split_frame, with_signature
from server.hosting import Terms
from server.nodes_channel import NodesChannel
from server.uploads import Limits

Sign = Callable[[bytes], bytes]


def update_in(reply: bytes) -> bytes:
    return mpb.Reply.FromString(reply).update


def reply_with(update: bytes) -> bytes:
    return mpb.Reply(schema=1, update=update).SerializeToString(deterministic=True)


def header_of(update: bytes) -> epb.Header:
    return epb.Header.FromString(bytes(split_frame(update).header))


def payload_of(update: bytes) -> bytes:
    return bytes(split_frame(update).payload)


def sealed(header: epb.Header, payload: bytes, sign: Sign | None, *, digest: bool = True, tail: bytes = b"") -> bytes:
    """A reply with this header, a `tail` after its last field, and payload, signed unless `sign` is None."""
    if digest:
        header.payload_digest = payload_digest(header.codec & 0x7FFFFFFF, header.codec_parameters, payload)
    update = join_frame(header.SerializeToString(deterministic=True) + tail, payload)
    return reply_with(with_signature(update, sign) if sign else update)


def changed(reply: bytes, sign: Sign, payload: bytes | None = None, **fields: object) -> bytes:
    """A reply with an update whose header says something else, and whose payload may be another."""
    header = header_of(update_in(reply))
    for name, value in fields.items():
        setattr(header, name, value)
    kept = payload_of(update_in(reply)) if payload is None else payload
    return sealed(header, kept, sign, digest="payload_digest" not in fields)


Forge = Callable[["Overheard", str, int, bytes], bytes]


@dataclass
class Overheard:
    """Genuine updates, signed by those who made them, and a source of chance."""

    chance: random.Random
    earlier: dict[tuple[str, int], bytes] = field(default_factory=dict)
    other_run: dict[tuple[str, int], bytes] = field(default_factory=dict)


def replay(heard: Overheard, me: str, number: int, reply: bytes) -> bytes:
    """One's own genuine update of an earlier round, or of the same round of another run."""
    pool = [update for (name, when), update in heard.earlier.items() if name == me and when < number]
    return reply_with(heard.chance.choice([*pool, heard.other_run[me, number]]))


def tamper(heard: Overheard, me: str, number: int, reply: bytes) -> bytes:
    """A few bytes changed on the way: in the header, the payload (with a digest that fits) or the signature."""
    update = update_in(reply)
    if heard.chance.randrange(2):
        header, payload = header_of(update), bytearray(payload_of(update))
        payload[heard.chance.randrange(len(payload))] ^= 1 << heard.chance.randrange(8)
        forged = sealed(header, bytes(payload), lambda _: update[-64:])
        return forged if forged != reply else reply_with(b"")
    changed_update = bytearray(update)
    for _ in range(heard.chance.choice((1, 1, 2, 8))):
        changed_update[heard.chance.randrange(len(update))] ^= 1 << heard.chance.randrange(8)
    return reply_with(bytes(changed_update) if changed_update != update else b"")


def wrong_base(heard: Overheard, me: str, number: int, reply: bytes) -> bytes:
    """Trained on another base, and honestly signed."""
    return changed(reply, key_of(me).sign, base_fingerprint=heard.chance.randbytes(32))


def wrong_round(heard: Overheard, me: str, number: int, reply: bytes) -> bytes:
    """Of another round, or relative to another adapter, and honestly signed."""
    if heard.chance.randrange(4) == 0:
        return changed(reply, key_of(me).sign, relative_to=heard.chance.randbytes(32))
    others = [each for each in (number - 2, number - 1, number + 1, number + 2, 2**32 - 1) if each >= 0]
    return changed(reply, key_of(me).sign, round=heard.chance.choice(others))


def wrong_node(heard: Overheard, me: str, number: int, reply: bytes) -> bytes:
    """In another's name, with another's key, or with another's genuine update of this very round."""
    other = heard.chance.choice(list(HONEST))
    match heard.chance.randrange(3):
        case 0:
            return changed(reply, key_of(me).sign, client=other)
        case 1:
            return changed(reply, key_of(other).sign)
        case _:
            genuine = heard.earlier.get((other, number))
            return reply_with(genuine) if genuine else changed(reply, key_of(other).sign, client=other)


KINDS: dict[str, Forge] = {
    each.__name__.replace("_", " "): each for each in (replay, tamper, wrong_base, wrong_round, wrong_node)
}


@no_waiting_for_the_disk()
def run(*, full: bool, scratch: Path) -> Row:
    """Every kind in a run of its own; node by node over gRPC besides."""
    rounds, forgers = (20, 50) if full else (4, 10)
    names = [f"forger{number:02}" for number in range(forgers)]
    models = {**HONEST, **{name: FakeModel(2.0, 4) for name in names}}
    expected = signed(scratch / "without", HONEST, may_be_away=("n",), clients=4, cohort_size=4, rounds=rounds).run()
    tried, accepted = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    failures: list[str] = []
    for kind, forge in KINDS.items():
        heard = Overheard(random.Random(kind))
        other = signed(scratch / f"{kind} other", models, may_be_away=names, rounds=rounds)
        other.channel.tamper = _listening(heard.other_run)
        _of_another_run(other)
        federation = signed(scratch / kind, models, may_be_away=names, rounds=rounds)
        hears = _listening(heard.earlier)

        def forged(asked, reply, forge=forge, heard=heard, hears=hears, kind=kind):
            hears(asked, reply)
            if asked.purpose is not Purpose.TRAIN or asked.client not in names:
                return reply
            tried[kind] += 1
            return forge(heard, asked.client, asked.round, reply)

        federation.channel.tamper = forged
        state = federation.run()
        accepted[kind] = sum(event["client"] in names for event in federation.of_kind("update_received"))
        if state.adapter.digest() != expected.adapter.digest():
            failures.append(f"{kind}: the adapter is another than without the forgers")
        if accepted[kind]:
            failures.append(f"{kind}: {accepted[kind]} of {tried[kind]} were accepted")
    kept = list(_over_grpc(scratch / "grpc", 1000 if full else 50))
    if any(kept):
        failures.append(f"over gRPC, {sum(kept)} of {len(kept)} answers to another's task were kept")
    total = sum(tried.values()) + len(kept)
    figures = {f"{kind} accepted": f"{accepted[kind]} of {tried[kind]:,}" for kind in KINDS}
    figures["to another's task over gRPC"] = f"{sum(kept)} of {len(kept):,}"
    passed, least = total - sum(accepted.values()) - sum(kept), 5 * (1000 if full else 40)
    return Row("replay, tamper, wrong base, round, node", total, passed, figures, failures, least)


def _listening(into: dict[tuple[str, int], bytes]) -> Callable[..., bytes]:
    def hear(asked, reply):
        if asked.purpose is Purpose.TRAIN:
            into[asked.client, asked.round] = update_in(reply)
        return reply

    return hear


def _of_another_run(federation) -> None:
    """Run it under another id; the clients, their keys, data and adapter are the same."""
    module = borrowed("plait/rounds/conftest.py")
    genuine = module.initial_state
    module.initial_state = lambda _run_id, ranks: genuine(b"R" * 16, ranks)
    try:
        federation.run()
    finally:
        module.initial_state = genuine


def _over_grpc(scratch: Path, count: int) -> Iterator[bool]:
    """Whether an answer is kept that a node uploads to another's task, or under a session that is none of its."""
    helper = borrowed("server/conftest.py")
    chance = random.Random(0)
    scratch.mkdir()
    with NodesChannel("127.0.0.1:0", kit=None, limits=Limits(max_answer_bytes=1 << 20)).begin(
        Terms(7, {}, b"b" * 32), inbox=scratch
    ) as channel:
        alice, eve = (helper.BareNode(channel.address, name).attend() for name in ("alice", "eve"))
        helper.waiting.until(lambda: len(channel.nodes(0)) == 2)
        helper.send(channel, "alice", b"task")
        task_id = alice.work().task_id
        own = eve.session
        for number in range(count):
            eve.session = own if number % 2 else chance.randbytes(32)
            try:
                receipt = eve.upload(task_id, b"eve's")
            except grpc.RpcError:
                yield False
            else:
                yield receipt.kept
        assert alice.upload(task_id, b"alice's") == pb.Receipt(kept=True)
        for node in (alice, eve):
            node.leave()
