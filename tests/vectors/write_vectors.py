"""Write the golden bytes of the wire format: for every named message its bytes (.hex) and its meaning (.json).

    python tests/vectors/write_vectors.py

Run it when a message is added here. The bytes of an existing message never change within a schema version.
"""

import dataclasses
import json
import math
import runpy
import zlib
from hashlib import sha256
from pathlib import Path

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout
from plait.rounds.run_state import client_seed
from plait.secagg.client import pair_key, self_key
from plait.secagg.sums import Rotation
from plait.transport.protocol import enrolment_bytes, node_number
from plait.trust.keys import NodeKey
from plait.trust.masks import Mask, Ring, add_masks, public_of, split
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, open_envelope, seal, with_signature
from plait.wire.masked_messages import (
    Delivery,
    MaskedReply,
    MaskedUpdate,
    MaskingTask,
    ParcelKey,
    Parcels,
    Ready,
    Revealed,
    Signed,
    Survivors,
    Unmasking,
    UnopenedParcel,
)
from plait.wire.masked_roster import MaskedAttempt, Offer, Roster, joined, neighbours, parcel_key
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    EvaluateTask,
    Evaluation,
    Refusal,
    RefusalReason,
    TrainTask,
    UpdateReply,
    encode_reply,
    encode_task,
    packed_layout,
)
from plait.wire.settings import Settings, digest_of

HERE = Path(__file__).parent
INDEPENDENT = runpy.run_path(str(HERE / "independent_decoder.py"))

LAYOUT = Layout.of({"q_proj.lora_A": (2, 3), "q_proj.lora_B": (3, 2)})
# Both signs, zeros of both signs, ties of bfloat16 in both directions, a subnormal, the largest float32.
VALUES = [1.0, -2.5, 0.0, -0.0, 1.00390625, 1.01171875, 1e-3, -3e-8, 1e-45, 3.4028235e38, 0.1, -7.0]
DELTA = AdapterState(LAYOUT, np.array(VALUES, np.float32))
ZERO = AdapterState.zeros(LAYOUT)
# More tensors than a byte of the mask has bits, some of them without numbers; in the last one a negative zero.
PART_LAYOUT = Layout.of({f"t{i:02}": (i % 3, 2) for i in range(11)})
PART_DELTA = AdapterState(
    PART_LAYOUT, np.array([0, 0, 1.0, -2.5, 3e-3, 1e-45, *[0.0] * 6, 0.1, 0, 0, 0, 0, 0, -0.0, 0.0], np.float32)
)

_ABOUT = {
    "run_id": bytes(range(16)), "base_fingerprint": sha256(b"base").digest(), "spec_digest": sha256(b"spec").digest(),
    "relative_to": sha256(b"before").digest(),
}  # fmt: skip
UPDATE = Header(
    direction=Direction.UPDATE, round=3, client="ålice 7", examples=300,
    metrics={"train_loss": 1.25, "train_s": 0.0, "a": -1e-300}, **_ABOUT,
)  # fmt: skip
BROADCAST = Header(
    direction=Direction.BROADCAST, round=70000, client="", result_digest=sha256(b"after").digest(), **_ABOUT
)
SETTINGS = Settings(
    local_steps=4, batch_size=2, gradient_accumulation_steps=1, seq_len=128, learning_rate=1e-3, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=16, seed=2**64 - 1,
    lr_schedule="linear", round=3, total_steps=20, done_steps=8, bits="bf16",
)  # fmt: skip
# Two groups on two lanes, the second beginning amid a row; a tensor of zeros; an odd number of tensors.
RATE_LAYOUT = Layout.of({"a": (23, 27), "b": (40, 2), "c": (4, 120)})
RATE_DELTA = AdapterState(
    RATE_LAYOUT,
    np.array(
        [math.sin(i * i) ** 3 / (100 if i < 621 else 10) if not 621 <= i < 701 else 0 for i in range(1181)], np.float32
    ),
)
CARD = ClientCard(
    client="bob",
    base_fingerprint=sha256(b"base").digest(),
    spec_digest=sha256(b"spec").digest(),
    train_examples=120,
    train_tokens=15360,
    held_out_examples=0,
    held_out_tokens=0,
    histogram={"email.mime": 7, "email": 100, "asyncio": 20, "日本語": 0},
)

# Name: header, delta, and what --bits says.
ENVELOPES = {
    "update_fp32": (UPDATE, DELTA, "fp32"),
    "update_bf16": (UPDATE, DELTA, "bf16"),
    "update_unchanged": (UPDATE, ZERO, "bf16"),
    "broadcast_step_bf16": (BROADCAST, DELTA, "bf16"),
    "broadcast_unchanged": (BROADCAST, ZERO, "fp32"),
    "update_rate": (UPDATE, RATE_DELTA, "8"),
    "update_rate_of_extremes": (UPDATE, DELTA, "2"),
    "broadcast_step_rate": (BROADCAST, RATE_DELTA, "1"),
    "update_fp32_partial": (UPDATE, PART_DELTA, "fp32"),
    "broadcast_step_bf16_partial": (BROADCAST, PART_DELTA, "bf16"),
    "broadcast_whole_fp32": (
        dataclasses.replace(BROADCAST, client="bob", relative_to=b"", spec_json='{"method":"lora"}'),
        DELTA,
        "fp32",
    ),
}
TASKS = {
    # Of any level of compression; here of none, whose bytes are those of every zlib.
    "task_describe": DescribeTask(SETTINGS, '{"method":"lora"}', zlib.compress(LAYOUT.text.encode(), 0)),
    "task_train": TrainTask(SETTINGS, b"\x08\x01 an envelope"),
    "task_train_with_more_settings": TrainTask(
        dataclasses.replace(
            SETTINGS,
            trained="B",
            personal="A",
            proximal=0.01,
            carry_moments=True,
            personalize=0.75,
            measures_slope=True,
            bits="1",
        ),
        b"\x08\x01 an envelope",
    ),
    "task_train_of_settings_held": TrainTask(SETTINGS, b"\x08\x01 an envelope"),
    "task_evaluate": EvaluateTask(dataclasses.replace(SETTINGS, lr_schedule="constant", seed=0), b""),
    "task_evaluate_judging": EvaluateTask(
        dataclasses.replace(SETTINGS, judging=True, judge_part=200), b"\x08\x01 an envelope"
    ),
}
SESSION = MaskedAttempt(bytes(range(16)), "train", 3, bytes(range(16, 32)))
OFFERS = tuple(
    Offer(name, *(sha256(f"{name} {key}".encode()).digest() for key in range(4)), bytes([place]) * 64)
    for place, name in enumerate(("alice", "bob", "çarol"))
)
TASKS |= {
    "task_masking_keys": MaskingTask(SESSION),
    "task_masking_roster": MaskingTask(SESSION, Roster(SESSION, OFFERS, 7, 0.0078125, 4096, 5)),
    "task_masking_delivery": MaskingTask(SESSION, Delivery((0, 1, 300), {0: b"a" * 178, 300: b"b" * 178})),
    "task_masking_opening": MaskingTask(SESSION, UnopenedParcel(300)),
    "task_masking_survivors": MaskingTask(
        dataclasses.replace(SESSION, purpose="evaluate"), Survivors((0, 300), {300: b"m" * 64})
    ),
    "task_masking_unmasking": MaskingTask(SESSION, Unmasking((0, 300), {0: b"s" * 64, 300: b"t" * 64})),
}
# Tasks without the text of their settings.
OF_SETTINGS_HELD = ("task_train_of_settings_held",)
REPLIES = {
    "reply_card": CARD,
    "reply_card_with_judge_part": dataclasses.replace(CARD, judge_examples=8, judge_tokens=1024),
    "reply_update": UpdateReply(b"\x08\x01 an envelope"),
    "reply_evaluation": Evaluation("bob", 0, 2.5, 4096, None, 32),
    "reply_evaluation_labels": Evaluation("bob", 12, 0.0, 900, 0, 30),
    "reply_evaluation_own": Evaluation("bob", 5, 2.5, 4096, 3, 32, 2.25, 0),
    "reply_evaluation_errors": Evaluation(
        "bob",
        5,
        2.5,
        4096,
        3,
        32,
        2.25,
        0,
        0.125,
        -0.25,
        0.0,
        own_loss_error=0.5,
        own_change=0.0,
        own_change_error=2**-40,
    ),
    "reply_evaluation_rewards": Evaluation(
        "bob", 5, 0.5, 32, 20, 32, 0.25, 24, reward_margin=-0.125, own_reward_margin=0.0
    ),
    "reply_evaluation_metrics": Evaluation("bob", 5, 0.5, 32, 20, 32, metric_sums={0: 20.0, 3: 12.0, 70_000: 0.5}),
    "reply_refusal": Refusal("bob", RefusalReason.NEED_FULL, "adapter 1f2e is not held here"),
}
REPLIES |= {
    "reply_masked_offer": MaskedReply("alice", OFFERS[0]),
    "reply_masked_offer_of_a_kit": MaskedReply(
        "bob", dataclasses.replace(OFFERS[1], certificate=b"\x30\x82" + bytes(range(200)), endorsement=b"e" * 70)
    ),
    "reply_masked_parcels": MaskedReply("alice", Parcels({1: b"a" * 178, 2: b"b" * 178})),
    "reply_masked_ready": MaskedReply("alice", Ready()),
    "reply_masked_unreadable": MaskedReply("alice", Ready((1, 300))),
    "reply_masked_opened": MaskedReply("alice", ParcelKey(b"k" * 32)),
    "reply_masked_signature": MaskedReply("alice", Signed(b"s" * 64)),
    "reply_masked_revealed": MaskedReply("alice", Revealed({0: b"c" * 33, 2: b"d" * 33})),
    "reply_masked_update": MaskedReply("alice", MaskedUpdate(bytes(range(14)), b"\xff" * 40, b"m" * 64)),
}


def vectors() -> dict[str, bytes]:
    """Every golden message as the writer makes it."""
    found = {
        name: seal(header, encode_delta(delta, codec_for(bits))).data
        for name, (header, delta, bits) in ENVELOPES.items()
    }
    found |= {name: b"".join(encode_task(task, whole=name not in OF_SETTINGS_HELD)) for name, task in TASKS.items()}
    return found | {name: encode_reply(reply) for name, reply in REPLIES.items()}


def meaning(name: str, data: bytes) -> object:
    """What a golden message says, by the decoder that shares no code with the writer."""
    layout = ENVELOPES[name][1].layout if name in ENVELOPES else LAYOUT
    kind = "envelope" if name in ENVELOPES else name.split("_")[0]
    return INDEPENDENT["decode"](data, kind, [slot.size for slot in layout.slots])


def as_json(value: MaskedAttempt | Offer) -> dict[str, object]:
    return {name: each.hex() if isinstance(each, bytes) else each for name, each in vars(value).items()}


def derived() -> dict[str, dict[str, object]]:
    """What follows from what, beside messages: by name the level, what is given, and what must come out."""
    return {
        "layout": _layout(),
        "specification": _specification(),
        "enrolment": _enrolment(),
        "signed_envelope": _signed_envelope(),
        "seeds": _seeds(),
        "settings": {"level": "minimal", "given": {"text": SETTINGS.text}, "expected": digest_of(SETTINGS.text).hex()},
        "errors": _errors(),
        "shares": _shares(),
        "roster": _roster(),
        "rotation": _rotation(),
        "masks": _masks(),
    }


def _layout() -> dict[str, object]:
    layout = Layout.of({"b.lora_B.weight": (3, 2), "a\u00e9.lora_A.weight": (2, 4), "c": (5,)})
    given = {"shapes": {slot.name: list(slot.shape) for slot in layout.slots}, "zlib": packed_layout(layout).hex()}
    expected = {"text": layout.text, "digest": layout.digest.hex(), "size": layout.size}
    return {"level": "minimal", "given": given, "expected": expected}


def _specification() -> dict[str, object]:
    module = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    layout = Layout.of({module.format(i, s): (4, 128) if s == "A" else (128, 4) for i in range(2) for s in "AB"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    spec = AdapterSpec("lora", config, AdapterTask.CAUSAL_LM, (), layout, 5)
    state = AdapterState(layout, np.arange(layout.size, dtype=np.float32) / 8)
    given = {"spec_json": spec.text, "layout": layout.text, "adapter": "number i is i / 8"}
    expected = {"spec_digest": spec.digest.hex(), "adapter_digest": state.digest().hex()}
    return {"level": "minimal", "given": given, "expected": expected}


KEY = sha256(b"a node's key").digest()


def _enrolment() -> dict[str, object]:
    key, nonces = NodeKey.from_seed(KEY), {name: sha256(name.encode()).digest() for name in ("challenge", "hello")}
    signed = enrolment_bytes(
        challenge_nonce=nonces["challenge"], hello_nonce=nonces["hello"], public_key=key.public_bytes, name="ålice 7"
    )
    given = {name: nonce.hex() for name, nonce in nonces.items()} | {"key": KEY.hex(), "name": "ålice 7"}
    expected = {
        "public_key": key.public_bytes.hex(),
        "signed": signed.hex(),
        "signature": key.sign(signed).hex(),
        "node_id": str(node_number("ålice 7")),
    }
    return {"level": "minimal", "given": given, "expected": expected}


def _signed_envelope() -> dict[str, object]:
    key, encoded = NodeKey.from_seed(KEY), encode_delta(DELTA, codec_for("fp32"))
    envelope = seal(UPDATE, encoded).data
    opened = open_envelope(envelope, layout=LAYOUT)
    signature = key.sign(opened.signed)
    return {
        "level": "minimal",
        "given": {"key": KEY.hex(), "envelope": envelope.hex()},
        "expected": {"signature": signature.hex(), "envelope": with_signature(envelope, key.sign).hex()},
    }


def _seeds() -> dict[str, object]:
    given = [[5, 1, "alice"], [2**63 - 1, 70000, "ålice 7"], [0, 1, "bob"]]
    return {"level": "minimal", "given": given, "expected": [str(client_seed(*each)) for each in given]}


def _errors() -> dict[str, object]:
    task = b"".join(encode_task(TASKS["task_train"]))
    envelope = seal(UPDATE, encode_delta(DELTA, codec_for("fp32"))).data
    flipped = envelope[:-1] + bytes([envelope[-1] ^ 1])
    wrong = {
        "task of schema 2": ("task", b"\x08\x02" + task[2:]),
        "task with an unknown field": ("task", task + b"\x7a\x00"),
        "task cut off": ("task", task[:-1]),
        "task that asks for nothing": ("task", b"\x08\x03"),
        "varint with a byte too many": ("task", b"\x08\x83\x00" + task[2:]),
        "envelope whose payload has another digest": ("envelope", flipped),
        "envelope cut off": ("envelope", envelope[:-1]),
        "envelope of schema 2": ("envelope", b"\x08\x02" + envelope[2:]),
    }
    given = {why: {"kind": kind, "bytes": data.hex()} for why, (kind, data) in wrong.items()}
    return {"level": "minimal", "given": given, "expected": "refused"}


def _shares() -> dict[str, object]:
    drawn = [int.from_bytes(sha256(bytes([i])).digest(), "big") for i in range(2)]
    each = iter(drawn)
    shares = split(KEY, threshold=3, count=4, below=lambda _: next(each))
    given = {"secret": KEY.hex(), "coefficients": [f"{number:064x}" for number in drawn], "count": 4}
    return {"level": "masks", "given": given, "expected": [share.hex() for share in shares]}


def _roster() -> dict[str, object]:
    roster = Roster(SESSION, OFFERS, 7, 0.0078125, 4096, 5)
    many = sha256(b"many").digest()
    given = {
        "session": as_json(SESSION),
        "offers": [as_json(offer) for offer in OFFERS],
        "survivors": [[0, 1, 2], [0, 2]],
        "many": {"clients": 300, "digest": many.hex(), "place": 7},
    } | {name: getattr(roster, name) for name in ("bits", "unit", "size", "figures")}
    expected = {
        "keys_text": OFFERS[0].signed(SESSION).hex(),
        "digest": roster.digest.hex(),
        "masked_text": roster.masked_text((0, 1, 2)).hex(),
        "survivors_text": roster.survivors_text((0, 1, 2), (0, 2)).hex(),
        "holders": sorted((*neighbours(300, many)[7], 7)),
    }
    return {"level": "masks", "given": given, "expected": expected}


def _rotation() -> dict[str, object]:
    received = sha256(b"adapter").digest()
    rotation = Rotation(100, joined(received, (3).to_bytes(8, "big")))
    vector = np.arange(100, dtype=np.float32) / 64
    expected = {"size": rotation.rotated_size, "rotated": [round(float(x), 4) for x in rotation.forward(vector)]}
    given = {"size": 100, "received": received.hex(), "round": 3, "vector": "number i is i / 64"}
    return {"level": "masks", "given": given, "expected": expected}


def _masks() -> dict[str, object]:
    secrets = {name: sha256(name.encode()).digest() for name in ("encryption", "masking", "seed", "theirs")}
    offers = tuple(dataclasses.replace(offer, masking=public_of(secrets["theirs"])) for offer in OFFERS)
    roster, received = Roster(SESSION, offers, 7, 0.0078125, 16, 2), sha256(b"adapter").digest()
    both = pair_key(secrets["masking"], offers[1].masking, roster, received)
    own = self_key(secrets["seed"], roster, received)
    values, figures = Ring(7).reduced(np.arange(-8, 8)), np.array([5, 7], np.uint64)
    add_masks(values, figures, [Mask(own, 1), Mask(both, -1)], Ring(7))
    given = {name: secret.hex() for name, secret in secrets.items()}
    given |= {"roster": roster.digest.hex(), "received": received.hex()}
    given |= {"numbers": list(range(-8, 8)), "figures": [5, 7]}
    expected = {
        "pair": both.hex(),
        "own": own.hex(),
        "parcel": parcel_key(secrets["encryption"], roster, 2).hex(),
        "values": Ring(7).pack(values).hex(),
        "figures": figures.astype("<u8").tobytes().hex(),
    }
    return {"level": "masks", "given": given | {"bits": 7}, "expected": expected}


def main() -> None:
    (HERE / "derived").mkdir(exist_ok=True)
    for name, said in derived().items():
        text = json.dumps(said, indent=1, ensure_ascii=False, sort_keys=True)
        (HERE / "derived" / f"{name}.json").write_text(text + "\n")
    for name, data in vectors().items():
        lines = [data[start : start + 32].hex() for start in range(0, len(data), 32)]
        (HERE / f"{name}.hex").write_text("\n".join(lines) + "\n")
        (HERE / f"{name}.json").write_text(
            json.dumps(meaning(name, data), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        )


if __name__ == "__main__":
    main()
