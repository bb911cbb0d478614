"""What secure aggregation costs a client and the server, beside Flower's SecAgg+, in one process.

    python simulations/privacy/secure_aggregation.py > simulations/privacy/secure_aggregation.json

Every figure is of whole protocols: plait's messages as they would travel, Flower's by the functions that its client mod
and its server workflow call (`flwr.client.mod.secure_aggregation.secaggplus_mod`), with the workflow's defaults. The
sum of the clients that are left is compared with the plain sum. Times are seconds of processor time of one thread.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from plait.secagg.client import MaskingClient
from plait.secagg.server import Collecting
from plait.secagg.sums import TRAINING, Coding, Rotation, bits_for, unit_for
from plait.trust.keys import NodeIdentity, NodeKey
from plait.trust.masks import Ring
from plait.wire.masked_messages import MaskedReply, MaskedUpdate, Parcels, Ready, Revealed, Signed
from plait.wire.masked_roster import MaskedAttempt, Offer, Roster
from plait.wire.messages import encode_reply

# The package has a function of the same name.
secaggplus_mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")

LORA, FED_SB = 2_442_240, 54_000
RECEIVED = bytes(32)


class Clock:
    """Processor time by what it was spent on."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count a block of code."""
        began = time.process_time()
        yield
        self.spent_s[what] = self.spent_s.get(what, 0.0) + time.process_time() - began


def plait(count: int, size: int, gone: int) -> dict[str, object]:
    """A round of `count` clients, of whom `gone` share their secrets and then send nothing."""
    clock, generator = Clock(), np.random.default_rng(0)
    names = [f"client-{number:04d}" for number in range(count)]
    keys = {name: NodeKey.generate() for name in names}
    clients = {name: MaskingClient(name) for name in names}
    uplink_bytes = dict.fromkeys(names, 0)

    def sends(name: str, answer: object) -> None:
        uplink_bytes[name] += len(encode_reply(MaskedReply(name, answer)))

    def vouch(offer: Offer) -> bool:
        return keys[offer.client].public_bytes == offer.identity

    ring, rotation = Ring(bits_for(count)), Rotation(size, b"round")
    shared = generator.standard_normal(size).astype(np.float32)
    coding = Coding(
        ring,
        count,
        unit_for(ring, clients=count, size=rotation.rotated_size, length=2**0.5 * float(np.linalg.norm(shared))),
    )
    session = MaskedAttempt(bytes(16), "train", 1, bytes(16))
    offers = []
    with clock.on("keys and shares, all clients"):
        for name in names:
            key = keys[name]
            clients[name], offer = clients[name].offer(session, NodeIdentity(key.public_bytes, key.sign, vouch))
            offers.append(offer)
            sends(name, offer)
        roster = Roster(session, tuple(offers), ring.bits, coding.unit, rotation.rotated_size, len(TRAINING))
        collecting = Collecting(roster)
        for name in names:
            clients[name], parcels = clients[name].share(roster, vouch)
            collecting.add_parcels(name, parcels)
            sends(name, Parcels(parcels))
        sharers = collecting.close_sharing().sharers
        for name in names:
            parcels = collecting.parcels_for(roster.place(name))
            clients[name], _ = clients[name].deliver(session, sharers, parcels)
            sends(name, Ready())
    left = names[: count - gone]
    total = np.zeros(rotation.rotated_size, np.int32)
    figures = np.arange(len(TRAINING), dtype=np.uint64)
    for name in left:
        own = shared + generator.standard_normal(size).astype(np.float32)
        with clock.on("rotate and round, all clients"):
            numbers = coding.encode(rotation, own, key=generator.bytes(32))
        total += numbers
        with clock.on("mask, all clients"):
            clients[name], values, hidden, signature = clients[name].masked(
                session, ring.reduced(numbers), figures, received=RECEIVED, sign=keys[name].sign
            )
        with clock.on("pack, all clients"):
            sends(name, MaskedUpdate(ring.pack(values), hidden.tobytes(), signature))
        collecting.add_masked(name, values, hidden, signature)
    sealed = collecting.seal()
    signatures = {}
    for name in left:
        clients[name], signature = clients[name].sign(
            session, sealed.survivors, sealed.neighbours_of(name), keys[name].sign
        )
        signatures[roster.place(name)] = signature
        sends(name, Signed(signature))
    shares = {}
    for name in left:
        clients[name], given = clients[name].reveal(session, sealed.survivors, signatures)
        shares[roster.place(name)] = given
        sends(name, Revealed(given))
    with clock.on("unmask"):
        values, sums = sealed.unmask(shares, received=RECEIVED)
    assert (values == total).all()
    assert (sums == figures * np.uint64(len(left))).all()
    each = {what: spent_s / (1 if what == "unmask" else len(left)) for what, spent_s in clock.spent_s.items()}
    return {
        "clients": count, "parameters": size, "gone": gone, "bits": ring.bits,
        "neighbours": len(roster.holders(0)) - 1,
        "uplink_bytes": max(uplink_bytes.values()),
        "mask_s": round(each["mask, all clients"], 4),
        "rotate_and_round_s": round(each["rotate and round, all clients"], 4),
        "pack_s": round(each["pack, all clients"], 4),
        "keys_and_shares_s": round(clock.spent_s["keys and shares, all clients"] / count, 4),
        "unmask_s": round(each["unmask"], 3),
        "sum_is_exact": True,
    }  # fmt: skip


def flower(count: int, size: int, gone: int) -> dict[str, object]:
    """The same round with Flower's SecAgg+: everybody shares with everybody."""
    clock, generator = Clock(), np.random.default_rng(0)
    threshold, clipping, target, modulus = -(-2 * count // 3), 8.0, 1 << 22, 1 << 32
    setup = {
        Key.SAMPLE_NUMBER: count, Key.SHARE_NUMBER: count, Key.THRESHOLD: threshold, Key.CLIPPING_RANGE: clipping,
        Key.TARGET_RANGE: target, Key.MOD_RANGE: modulus, Key.MAX_WEIGHT: 1000.0,
    }  # fmt: skip
    states = {}
    public = {}
    for number in range(count):
        state = states[number] = secaggplus_mod.SecAggPlusState()
        state.nid = number
        said = secaggplus_mod._setup(state, setup)
        public[str(number)] = (said[Key.PUBLIC_KEY_1], said[Key.PUBLIC_KEY_2])
    forwarded: dict[int, list[tuple[int, bytes]]] = {number: [] for number in range(count)}
    sent_bytes = 0
    with clock.on("keys and shares"):
        for number, state in states.items():
            said = secaggplus_mod._share_keys(state, public)
            sent_bytes = sum(map(len, said[Key.CIPHERTEXT_LIST]))
            for to, text in zip(said[Key.DESTINATION_LIST], said[Key.CIPHERTEXT_LIST], strict=True):
                forwarded[to].append((number, text))
    # All numbers are the same: only the masks differ, and what is left of a sum can be known.
    vector = np.clip(generator.standard_normal(size), -1, 1).astype(np.float32)
    left = range(count - gone)
    masked = None
    measured = 0
    for number in left:
        state = states[number]
        asked = {
            Key.CIPHERTEXT_LIST: [text for _, text in forwarded[number]],
            Key.SOURCE_LIST: [source for source, _ in forwarded[number]],
        }
        if measured < MASKED_BY_FLOWER:
            with clock.on("mask"):
                said = secaggplus_mod._collect_masked_vectors(state, asked, 1000, ndarrays_to_parameters([vector]))
            measured += 1
            sent_bytes += sum(map(len, said[Key.MASKED_PARAMETERS]))
            uplink_bytes, sent_bytes = sent_bytes, 0
            masked = said
        else:
            small = ndarrays_to_parameters([vector[:1]])
            secaggplus_mod._collect_masked_vectors(state, asked, 1000, small)
    assert masked is not None
    answers = {
        n: secaggplus_mod._unmask(
            states[n], {Key.ACTIVE_NODE_ID_LIST: [*left], Key.DEAD_NODE_ID_LIST: [*range(count - gone, count)]}
        )
        for n in left
    }
    collected: dict[int, list[bytes]] = {number: [] for number in range(count)}
    for said in answers.values():
        for owner, share in zip(said[Key.NODE_ID_LIST], said[Key.SHARE_LIST], strict=True):
            collected[owner].append(share)
    # As the workflow's unmask stage does it.
    vectors = [np.zeros(1, np.int64), np.zeros(size, np.int64)]
    shapes = get_parameters_shape(vectors)
    with clock.on("unmask"):
        for number, held in collected.items():
            secret = combine_shares(held)
            if number in left:
                vectors = parameters_subtraction(vectors, secaggplus_mod.pseudo_rand_gen(secret, modulus, shapes))
                continue
            for other in range(count):
                if other == number:
                    continue
                key = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public[str(other)][0]))
                mask = secaggplus_mod.pseudo_rand_gen(key, modulus, shapes)
                change = parameters_addition if number > other else parameters_subtraction
                vectors = change(vectors, mask)
        parameters_mod(vectors, modulus)
    return {
        "clients": count, "parameters": size, "gone": gone,
        "uplink_bytes": uplink_bytes,
        "mask_s": round(clock.spent_s["mask"] / measured, 3),
        "keys_and_shares_s": round(clock.spent_s["keys and shares"] / count, 4),
        "unmask_s": round(clock.spent_s["unmask"], 2),
    }  # fmt: skip


MASKED_BY_FLOWER = 3
"""Clients whose whole update is masked; the others' shares are decrypted too, which is all that unmasking needs."""


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="ten clients and few numbers, to try it")
    count, size = (10, 10_000) if parser.parse_args().small else (100, LORA)
    gone = count // 3
    found = {
        "machine": platform.processor() or platform.machine(),
        "plait": plait(count, size, gone),
        "plait, nobody gone": plait(count, size, 0),
        "plait, Fed-SB": plait(count, min(size, FED_SB), gone),
        "plait, ten times the clients": plait(10 * count, min(size, FED_SB), count),
        "flower": flower(count, size, gone),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
