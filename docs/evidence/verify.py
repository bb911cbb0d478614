#!/usr/bin/env python3
"""Check the evidence of a run: ``python verify.py BUNDLE [--adapter DIR] [--authority ca.crt]``.

Needs Python 3.11 and ``cryptography`` alone. Exit code 0: accepted; what was not checked is said, and which fields of
which events are the operator's word: nothing that a client signed says them. 1: refused.
"""

import argparse
import base64
import hashlib
import json
import math
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
JSON_TYPE = "application/vnd.in-toto+json"
CHAIN = {"seq", "time", "hash", "prev"}
OF_SERVER = CHAIN | {"event", "client", "round", "public_key", "took_s", "norms", "fold", "staleness", "weight"}
JUDGED = ("audited", "client_withdrawn", "judged", "withdrawn")
UNCOVERED = {
    "": "what the adapter tells", "client": "what the server sees", "record": "what a client's records share",
    "group": "what groups of records share",
}  # fmt: skip
PARTS = "figures ledger operator_says signer statements"
SAID = "about_data agreed certificate client endorsement forgotten messages public_key record"
FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
METRICS = (
    "train_loss", "first_loss", "learning_rate", "shortened", "reward", "train_s", "distortion", "refused_completions",
)  # fmt: skip
CODECS = {1: "unchanged", 2: "fp32", 3: "bf16", 4: "rate", 9: "fp32_partial", 10: "bf16_partial"}
# Settings that a server tells its clients wherever it has them.
DP = {"dp", "dp-epsilon", "dp-delta", "dp-clip"}
TOLD = DP | {
    "secure-aggregation", "rounds-mode", "step-budget", "epochs", "lr-schedule-over", "packing", "eval-metrics",
    "group", "dp-unit", "dp-group-records", "judge-part",
}  # fmt: skip
EVALUATIONS = {"evaluated": "evaluate", "judged": "judge"}  # and what asks for them
# What clients say too where an event has it; left out, it is the operator's word that there is none.
EXPECTED = {
    "run_started": ("adapter.alpha", "adapter.method", "adapter.rank"),
    "broadcast": ("round",),
    "reply_received": ("round",),
    "clients_described": ("clients.rank",),
    "update_received": ("bits_per_parameter", "envelope_bytes"),
    "round_finished": ("adapter", "received", "rule"),
    "evaluated": ("adapter",),
    "judged": ("adapter",),
    "run_finished": ("kept_round",),
}
MOST_BYTES, MOST_RATIO = 1 << 28, 32  # of a file; of what is compressed in it, which has a fifth of that ratio
canonical = json.JSONEncoder(allow_nan=False, separators=(",", ":"), sort_keys=True).encode


def _check(holds: object, why: str) -> None:
    if not holds:
        raise ValueError(why)


def _unpacked(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    _check(base64.b64encode(data).decode() == text, "base64 is not in its one form")
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def verify(key: Any, signature: bytes, data: bytes, what: str) -> None:
    """Refuse a signature that is not the key's; of ECDSA only the one with the smaller s counts."""
    is_edwards = isinstance(key, ed25519.Ed25519PublicKey)
    try:
        key.verify(signature, data, *(() if is_edwards else (ec.ECDSA(hashes.SHA256()),)))
    except InvalidSignature:
        raise ValueError(f"{what} was changed after it was signed, or another key signed it") from None
    _check(is_edwards or utils.decode_dss_signature(signature)[1] <= ORDER // 2, f"the signature on {what} has a twin")


def opened(data: bytes, key: Any, what: str) -> dict[str, Any]:
    """The statement in a DSSE envelope that a key has signed."""
    envelope = json.loads(data)
    public = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    signature = {"keyid": _sha256(public), "sig": envelope["signatures"][0]["sig"]}
    expected = {"payload": envelope["payload"], "payloadType": JSON_TYPE, "signatures": [signature]}
    _check(canonical(expected).encode() == data, f"{what} is not an envelope in its one form, or names another key")
    payload = _unpacked(envelope["payload"])
    signed = b"DSSEv1 %d %s %d %s" % (len(JSON_TYPE), JSON_TYPE.encode(), len(payload), payload)
    verify(key, _unpacked(signature["sig"]), signed, what)
    said = json.loads(payload)
    _check(canonical(said).encode() == payload, f"{what} is not in its one form")
    _check(said.pop("_type") == "https://in-toto.io/Statement/v1", f"{what} is no in-toto statement of version 1")
    _check(sorted(said) == ["predicate", "predicateType", "subject"], f"{what} has other keys than a statement")
    return said


def lines_of(packed: str, what: str) -> list[bytes]:
    """Lines that were compressed; memory stays in proportion to the file."""
    stream, data = zlib.decompressobj(), _unpacked(packed)
    text = stream.decompress(data, MOST_RATIO * len(data) + (1 << 16))
    whole = stream.eof and not stream.unused_data and text.endswith(b"\n")
    _check(whole, f"{what} is cut off, or far larger than it looks, or something follows it")
    return text.split(b"\n")[:-1]


def ledger_of(packed: str) -> list[dict[str, Any]]:
    """The lines of the ledger, their chain recomputed."""
    lines, before = list[dict[str, Any]](), "0" * 64
    for number, raw in enumerate(lines_of(packed, "the ledger")):
        line = json.loads(raw)
        before, prev = _sha256(canonical({key: line[key] for key in line if key != "hash"}).encode()), before
        whole = (line["seq"], line["prev"], line["hash"], raw) == (number, prev, before, canonical(line).encode())
        _check(whole, f"line {number + 1} of the ledger breaks its chain")
        counts = [line[key] for key in line if key.endswith("_bytes") or key == "round"]
        _check(all(type(each) is int and each >= 0 for each in counts), f"line {number + 1} counts less than nothing")
        lines.append(line)
    _check(lines and lines[0]["event"] == "run_started", "the ledger is not of a run")
    _check(lines[0].get("schema_version") == 1, "the ledger has another format: take the script of its plait")
    return lines


def figures(events: list[dict[str, Any]]) -> dict[str, Any]:
    """All figures that follow from the ledger."""
    bare = [{key: event[key] for key in event if key not in CHAIN} for event in events]
    kinds = {kind: [each for each in bare if each["event"] == kind] for kind in {each["event"] for each in bare}}
    losses, sums = kinds.get("evaluated", []), [each["clients"] for each in kinds.get("sum_unmasked", [])]
    promised = kinds.get("privacy_started", [None])[0]
    return {
        "made": bare[0],
        "ended": kinds["run_finished"][-1],
        "head": events[-1]["hash"],
        "rounds": len(kinds.get("round_finished", [])),
        "held_out_loss": [losses[0]["loss"], losses[-1]["loss"]] if losses else None,
        "clients": clients_of(events),
        "privacy": {
            "promised": promised,
            "spent": kinds.get("privacy_spent", [None])[-1],
            "draws": len({(each["round"], each["commitment"]) for each in kinds.get("noise_intended", [])}),
            "mechanism": "Gaussian; accountant: exact composition (arXiv 1905.02383, 1805.06530)" if promised else None,
            "not_covered": UNCOVERED[promised["unit"] if promised else ""],
            "clients_in_masked_sums": sums,
        },
        "judged": [event for event in bare if event["event"] in JUDGED],
    }


def clients_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What came from each client, and what went to it."""
    found: dict[str, dict[str, Any]] = {}
    empty = {"public_key": None, "messages": 0, "uplink_bytes": 0, "downlink_bytes": 0, "signed": 0}
    for event in events:
        kind = event["event"]
        cards = {card["client"]: card for card in event["clients"]} if kind == "clients_described" else {}
        scores = event.get("by_client", {}) if kind in EVALUATIONS else {}
        moved = {event["client"]} if kind in ("broadcast", "reply_received", "update_received") else set()
        for name in {*cards, *scores, *moved}:
            client = found.setdefault(name, {**empty, "client": name, "rounds": [], "fields": set()})
            client["public_key"] = cards[name].get("public_key") if name in cards else client["public_key"]
            update = event if kind == "update_received" else {}
            said = {"description": cards.get(name, {}), "evaluation": scores.get(name, {}), "update": update}
            client["fields"] |= {f"{what}: {key}" for what in said for key in said[what] if key not in OF_SERVER}
            client["downlink_bytes"] += event["downlink_bytes"] if kind == "broadcast" else 0
            client["messages"] += kind in ("reply_received", "update_received")
            client["uplink_bytes"] += event.get("uplink_bytes", 0) if kind.endswith("_received") else 0
            client["rounds"] += [event["round"]] if update else []
            client["signed"] += "signature" in update
    return [{**found[name], "fields": sorted(found[name]["fields"])} for name in sorted(found)]


def epsilon_of(draws: int, noise_multiplier: float, delta: float) -> float:
    """What so many draws of noise have cost: Balle and Wang, arXiv 1805.06530, theorem 8."""
    mu, low, high = math.sqrt(draws) / noise_multiplier, 0.0, 700.0
    for _ in range(200):
        epsilon = (low + high) / 2
        left, right = (math.erfc((epsilon / mu + sign * mu / 2) / math.sqrt(2)) / 2 for sign in (-1, 1))
        low, high = (low, epsilon) if left - math.exp(epsilon) * right <= delta else (epsilon, high)
    return high


def _varint(data: bytes, place: int) -> tuple[int, int]:
    end = place
    while data[end] & 128:
        end += 1
    _check(end - place < 10, "a number in a signed header has no end")
    return sum((byte & 127) << 7 * at for at, byte in enumerate(data[place : end + 1])), end + 1


def fields(data: bytes) -> dict[int, list[Any]]:
    """The fields of a protobuf message, by number."""
    found, place = dict[int, list[Any]](), 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, place = (8, place) if tag & 7 == 1 else _varint(data, place)
        found.setdefault(tag >> 3, []).append(data[place : place + number] if tag & 7 else number)
        place += number if tag & 7 else 0
    return found


def _part(size: int) -> int:
    """Bytes of a field of this size in a message, with its tag and length."""
    return size and 1 + (size.bit_length() + 6) // 7 + size


def check_update(event: dict[str, Any], key: bytes, first: dict[str, Any]) -> str:
    """A client's own signature on its update, and that the ledger says what it signed; the adapter that it is of."""
    what, data = f"the update of {event['client']!r} in round {event['round']}", bytes.fromhex(event["signed"])
    verify(ed25519.Ed25519PublicKey.from_public_bytes(key), bytes.fromhex(event["signature"]), data, what)
    header = fields(data[18:])
    metrics = {entry[1][0].decode(): struct.unpack("<d", entry[2][0])[0] for entry in map(fields, header.get(14, []))}
    spec = header[6][0].hex() if first["config"].get("client-ranks") else first["adapter"]["spec_digest"]
    found = [data[:18], header[2][0].hex(), header[3][0], header[4][0].decode(), header[5][0].hex(), header[6][0].hex()]
    told = [first["run"], event["round"], event["client"], first["base"]["fingerprint"], spec]
    _check(found == [b"plait.v1.envelope\0", *told], f"{what} was signed for another run, round, client or adapter")
    said = {"examples": header.get(13, [0])[0], "tokens": int(metrics.get("train_tokens", 0)),
            "epsilon": metrics.get("record_epsilon"), **{name: metrics.get(name) for name in METRICS}}  # fmt: skip
    codec = header.get(9, [0])[0]
    said["codec"] = CODECS.get(codec, event.get("codec"))
    for name in said:
        _check(event.get(name) == said[name], f"{name} of {what} is not what its client signed")
    if "envelope_bytes" in event:
        payload = event["payload_bytes"] - len(header.get(10, [b""])[0])
        whole = 2 + _part(len(data) - 18) + _part(payload) + _part(64)
        _check(event["envelope_bytes"] == whole, f"{what} has another size than its parts")
    return header[7][0].hex()


def check_role(certificate: Any, authority: Any, name: str, *, is_server: bool) -> None:
    """A certificate of this name and role: neither a member nor an observer signs as the server, nor it as a client."""
    certificate.verify_directly_issued_by(authority)
    of = certificate.extensions.get_extension_for_class
    purposes, signs = of(x509.ExtendedKeyUsage).value, of(x509.BasicConstraints).value.ca
    subject = [(each.oid, each.value) for each in certificate.subject]
    serves = x509.oid.ExtendedKeyUsageOID.SERVER_AUTH in purposes
    right = subject == [(x509.oid.NameOID.COMMON_NAME, name)] and serves == is_server and not signs
    _check(right, f"the certificate of {name!r} is of another name or role")


def check_statement(text: str, told: dict[str, Any], run: str, authority: str, signer: Any) -> dict[str, Any]:
    """What a client states, signed by a key that its own certificate endorses."""
    name, key = told["client"], ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(told["public_key"] or ""))
    statement = opened(text.encode(), key, f"the statement of {name!r}")
    said = statement["predicate"]
    subject, kind = statement["subject"], statement["predicateType"] == "https://plait.dev/client-statement/v2"
    _check(kind and subject == [{"name": "run", "digest": {"plaitRun": run}}], f"{name!r} states another run")
    _check(sorted(said) == SAID.split() and said["client"] == name, f"the statement of {name!r} is another's")
    certificate = x509.load_der_x509_certificate(_unpacked(said["certificate"]))
    check_role(certificate, x509.load_pem_x509_certificate(authority.encode()), name, is_server=False)
    parts = (b"plait node key 1", name.encode(), bytes.fromhex(told["public_key"]))
    endorsed, own = b"".join(len(part).to_bytes(8, "big") + part for part in parts), certificate.public_key()
    _check(isinstance(own, ec.EllipticCurvePublicKey) and own != signer, f"the key of {name!r} is the signer's own")
    own.verify(_unpacked(said["endorsement"]), endorsed, ec.ECDSA(hashes.SHA256()))  # type: ignore[union-attr,call-arg]
    said["messages"] = [json.loads(raw) for raw in lines_of(said["messages"], f"the record of {name!r}")]
    return said


def names_in(value: Any, name: str = "") -> Iterator[str]:
    """The dotted names of all values in an event; places in lists are left out."""
    inner = (
        value.items() if isinstance(value, dict) else [("", each) for each in value] if isinstance(value, list) else ()
    )
    for key, child in inner:
        yield from names_in(child, f"{name}.{key}".strip(".") if key else name)
    if not inner:
        yield name


def grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """Values by what comes before them."""
    found: dict[Any, list[Any]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


class Story:
    """A ledger beside what clients signed: refused where they differ; `word` has what none of them says too."""

    def __init__(self, events: list[dict[str, Any]], statements: dict[str, dict[str, Any]], authority: str) -> None:
        self.events, self.first, self.config = events, events[0], events[0]["config"]
        self.is_noised, self.is_masked = self._has("dp", "off"), self._has("secure-aggregation", False)
        self.is_async, self.has_ranks = self._has("rounds-mode", "sync"), self._has("client-ranks", "")
        self.records = {name: said["messages"] for name, said in statements.items()}
        self.agreed = self._agreed(statements, authority)
        self.updates = [each for each in events if each["event"] == "update_received"]
        self.is_signed = not self.is_masked and self.config.get("dp") != "client"
        self.rounds, self.draws, self.epsilons = 0, set[tuple[int, str]](), dict[str, float]()
        self.promised: dict[str, Any] = {}
        self.counts = False  # whether epsilon follows from the draws of noise in the ledger
        _check(len(self._of("run_started")) == 1, "the ledger is of more than one run")
        _check(len(self._of("privacy_started")) == self.is_noised, "the ledger has another promise of privacy")
        self.word: dict[str, set[str]] = {}
        self.seen: dict[str, set[str]] = {}
        self.doubts: list[str] = []
        self.matched = self._matched()
        self.after = grouped((each["round"], each["adapter"]) for each in events if {"round", "adapter"} <= each.keys())
        self.inside = grouped((each.get("fold", each["round"]), each["client"]) for each in self.updates)
        self.refused = grouped(
            (each["round"], each["client"]) for each in self._of("update_refused") if not each["stage"]
        )
        self.sums = grouped(
            (each["round"], each["clients"]) for each in self._of("sum_unmasked") if each["purpose"] == "train"
        )
        told = [
            (name, each["round"], each["purpose"], each["told"])
            for name in self.records
            for each in self.records[name]
            if "told" in each
        ]
        self.cards = grouped((name, said["card"]) for name, _, _, said in told if "card" in said)
        self.losses = grouped(((name, *which), said) for name, *which, said in told if "score" in said)
        answers = [each for each in self._of("reply_received") if each["seq"] in self.matched]
        self.answered = grouped(((each["round"], each["purpose"]), each["client"]) for each in answers)
        self.held = self._held()
        for event in events:
            self._tell(event)

    def _has(self, key: str, off: Any) -> bool:
        return self.config.get(key, off) != off

    def _agreed(self, statements: dict[str, dict[str, Any]], authority: str) -> set[str]:
        """The settings that all statements have agreed to as the ledger has them."""
        found = set(self.config) if statements else set[str]()
        for name, said in statements.items():
            _check(said["agreed"], f"{name!r} states no settings that it agreed to")
            for each in said["agreed"]:
                settings, base = each["settings"], self.first["base"]["fingerprint"]
                parts = json.dumps(settings, sort_keys=True).encode(), bytes.fromhex(each["base"]), authority.encode()
                consent = _sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts))
                _check(consent == each["consent"] and each["base"] in ("", base), f"{name!r} agreed to another run")
                left_out = TOLD & self.config.keys() - settings.keys()
                _check(not left_out, f"{name!r} did not agree to {sorted(left_out)}")
                same = {key for key in settings if canonical(settings[key]) == canonical(self.config.get(key))}
                # A directory of the server is told by its last part, a rule of its own by what it states.
                own = {"base"} | ({"rule"} if str(settings.get("rule")).startswith("stated:") else set[str]())
                other = settings.keys() - same - (own & self.config.keys())
                _check(not other, f"{name!r} agreed to another {sorted(other)} than the ledger has")
                found &= same
        return found

    def _matched(self) -> set[int]:
        """The numbers of all tasks and answers in the ledger that a client's own record has too."""
        asked, sent, signed = Counter[Any](), Counter[Any](), dict[Any, str]()
        for name, messages in self.records.items():
            for each in messages:
                is_refused = each["purpose"] in ("train", *EVALUATIONS.values()) and each["fields"][0].startswith(
                    ("refusal", "error")
                )
                purpose, size = "refused" if is_refused else each["purpose"], None if self.is_noised else each["bytes"]
                asked[name, each["purpose"], each["round"], each["asked"]] += 1
                sent[name, purpose, each["round"], size] += 1
                signed |= {(name, each["round"], each["signed"]): each["adapter"]} if "signed" in each else {}
        known, again = set(sent), Counter[str]()
        found, kinds = set[int](), {"update_received": "train", "update_refused": "refused"}
        for event in (each for each in self.events if each.get("client") in self.records):
            kind, name, number = event["event"], event["client"], event.get("round")
            if kind == "broadcast":
                keys = [(name, event["purpose"], number, event["downlink_bytes"])]
            elif kind in ("reply_received", *kinds):
                purpose = kinds.get(kind) or event["purpose"].replace("need-full", "refused")
                purposes = (purpose, "train", *EVALUATIONS.values()) if purpose == "refused" else (purpose,)
                keys = [(name, each, number, None if self.is_noised else event["uplink_bytes"]) for each in purposes]
            else:
                continue
            left = asked if kind == "broadcast" else sent
            key = next((each for each in keys if left[each] > 0), None)
            if key:
                left[key] -= 1
                found.add(event["seq"])
            # A server that is started again asks again, and gets the same answer, which a record has once.
            is_again = not key and kind == "reply_received" and not known.isdisjoint(keys)
            again[name] += is_again
            must = kind == "update_received" or (kind == "reply_received" and event["uplink_bytes"] > 0)
            _check(
                key or is_again or not must,
                f"the record of {name!r} lacks an answer that the ledger has in round {number}",
            )
            if "signed" in event:
                digest = _sha256(bytes.fromhex(event["signed"]))
                _check(signed.pop((name, number, digest), None), f"an update is not in the record of {name!r}")
        self.doubts += [f"{again[name]} answers that {name!r} gave again, which its record has once" for name in +again]
        self._left(+asked, +sent, signed)
        return found

    def _left(self, asked: Counter[Any], sent: Counter[Any], signed: dict[Any, str]) -> None:
        """What records have beyond the ledger: only what it refuses, or what was asked for again."""
        excused = {(each["client"], each["round"]) for each in (*self.updates, *self._of("update_refused"))}
        excused |= {(each["client"], each["round"]) for each in self._of("client_replaced")}
        for name, number, _ in signed if self.is_signed else ():
            _check(
                self.is_async or (name, number) in excused, f"the ledger lacks an update of {name!r}, round {number}"
            )
            self.doubts.append(f"why an update of {name!r} in round {number}, which it signed, is not in the ledger")
        for what, left in (("tasks to", asked), ("answers of", sent)):
            for name, counts in sorted(grouped((key[0], left[key]) for key in left).items()):
                self.doubts.append(f"{sum(counts)} {what} {name!r} by its record, which the ledger lacks")

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == kind]

    def _held(self) -> set[tuple[int, str]]:
        """Rounds, and the adapters that clients' records have after them; the ledger has no others."""
        found = set[tuple[int, str]]()
        for name, messages in self.records.items() if not self.has_ranks else ():
            for each in (each for each in messages if "adapter" in each):
                number = each["round"] - (each["purpose"] == "train")
                right = each["adapter"] in self.after.get(number, (each["adapter"],))
                _check(right, f"{name!r} was given another adapter after round {number} than the ledger has")
                found.add((number, each["adapter"]))
        return found

    def check_base(self, event: dict[str, Any], adapter: str) -> None:
        """An update is of the adapter that the ledger has after the round before."""
        right = self.has_ranks or adapter in self.after.get(event["round"] - 1, (adapter,))
        _check(right, f"the update of {event['client']!r} in round {event['round']} is of another adapter")

    def _tell(self, event: dict[str, Any]) -> None:
        """Note which of an event's fields nobody but the operator says."""
        kind = event["event"]
        needs = {"privacy_started": self.is_noised, "privacy_spent": self.is_noised, "noise_intended": self.is_noised,
                 "sum_unmasked": self.is_masked}  # fmt: skip
        _check(needs.get(kind, True), f"{kind} is of no run with these settings")
        names = set(names_in({key: event[key] for key in event if key not in CHAIN | {"event"}}))
        says = SAYS[kind](self, event) if kind in SAYS else set[str]()
        said = {name for name in names if any(name == each or name.startswith(f"{each}.") for each in says)}
        names |= {*EXPECTED.get(kind, ())}
        self.seen.setdefault(kind, set()).update(names)
        self.word.setdefault(kind, set()).update(names - said)

    def lines(self) -> list[str]:
        """The operator's word, a line for each kind of event: its fields, and a whole object where all of it is."""
        found: list[str] = []
        for kind in sorted(self.word):
            alone = self.seen[kind] - self.word[kind]
            tops = {name.partition(".")[0] for name in self.word[kind]}
            shown = [top for top in tops if not any(name.partition(".")[0] == top for name in alone)]
            shown += [name for name in self.word[kind] if name.partition(".")[0] not in shown]
            found += [f"{kind}: {', '.join(sorted(shown))}"] if shown else []
        return found

    def started(self, event: dict[str, Any]) -> set[str]:
        """Settings as agreed; of the rest what follows from them, and what signed updates name."""
        of_adapter = {f"adapter.{key}": (event["adapter"].get(key), key) for key in ("method", "rank", "alpha")}
        rule, base = (event.get("rule") or {}).get("name"), event["base"]["name"]
        follow = {
            "seed": (event["seed"], "seed"),
            "rule.name": (rule, "rule"),
            "base.name": (base, "base"),
            **of_adapter,
        }
        same = {each for each, (value, key) in follow.items() if self._is(key, value)}
        _check("rule" not in self.agreed or "rule.name" in same, "the rule is not the one that clients agreed to")
        proven = {"run", "base.fingerprint"} if self.records else set[str]()
        is_signed = any("signature" in each and each["client"] in self.records for each in self.updates)
        proven |= {"adapter.spec_digest"} if is_signed and not self.has_ranks else set[str]()
        return {f"config.{key}" for key in self.agreed} | same | proven

    def _is(self, key: str, value: Any) -> bool:
        """Whether clients agreed to this value of a setting; options that follow its name aside."""
        return key in self.agreed and str(self.config[key]).partition(":")[0] == str(value)

    def described(self, event: dict[str, Any]) -> set[str]:
        """What clients told of their data; a key is a client's where its certificate endorses it."""
        said = set(names_in({"clients": event["clients"]}))
        for card in event["clients"]:
            messages = self.records.get(card["client"], ())
            cards = [*map(canonical, self.cards.get(card["client"], ()))]
            told = canonical({key: card[key] for key in card if key not in ("rank", "public_key")})
            _check(not cards or told in cards, f"{card['client']!r} described itself otherwise")
            said &= said if cards else {"clients.client", "clients.public_key"} if messages else set[str]()
            said -= set[str]() if self._is("rank", card.get("rank")) and not self.has_ranks else {"clients.rank"}
        return said

    def message(self, event: dict[str, Any]) -> set[str]:
        """A task or an answer that its client's record has."""
        sizes = {"downlink_bytes"} | (set[str]() if self.is_noised else {"uplink_bytes"})
        return {"client", "round", "purpose"} | sizes if event["seq"] in self.matched else set[str]()

    def update(self, event: dict[str, Any]) -> set[str]:
        """An update, by its client's signature on it, or under masks by its record alone."""
        said = self.message(event)
        if "epsilon" in event:
            self.epsilons[event["client"]] = event["epsilon"]
        if "signature" not in event or event["client"] not in self.records:
            return said
        said |= {"examples", "tokens", "epsilon", "signed", "signature", "codec", *METRICS}
        if self.is_noised or "payload_bytes" not in event:
            return said
        bits = 8 * event["payload_bytes"] / self.first["adapter"]["trainable_parameters"]
        is_same = event.get("bits_per_parameter") == bits
        return said | {"envelope_bytes", "payload_bytes"} | ({"bits_per_parameter"} if is_same else set[str]())

    def round(self, event: dict[str, Any]) -> set[str]:
        """The end of a round: its adapter as clients were given it, and how many updates are in it."""
        self.rounds += 1
        number = event["round"]
        _check(number == self.rounds and number <= self.config["rounds"], f"round {number} is not the next of the run")
        _check(not self.counts or number in {each for each, _ in self.draws}, f"round {number} has no noise")
        inside = self.inside.get(number, [])
        received = len(inside) - len({*self.refused.get(number, ())} & {*inside})
        said = self.adapter(event) | ({"round"} if "rounds" in self.agreed else set[str]())
        is_known = event.get("received") == received and all(client in self.records for client in inside)
        said |= {"received"} if is_known else set[str]()
        return said | ({"rule"} if self._is("rule", event.get("rule")) else set[str]())

    def adapter(self, event: dict[str, Any]) -> set[str]:
        """An adapter that a client's record has after this round."""
        return {"adapter"} if (event["round"], event.get("adapter")) in self.held else set[str]()

    def finished(self, event: dict[str, Any]) -> set[str]:
        """The published adapter is the one that clients were given after its round."""
        _check(event["rounds"] == self.rounds, f"the run ends after {self.rounds} rounds, not {event['rounds']}")
        number = event.get("kept_round", self.rounds)
        _check(
            self.has_ranks or event["adapter"] in self.after.get(number, ()),
            "the published adapter is of no round of the ledger",
        )
        is_held = (number, event["adapter"]) in self.held
        if not is_held:
            self.doubts.append("the published adapter: no client's statement has its digest")
        return {"rounds"} | ({"adapter", "kept_round"} if is_held else set[str]())

    def evaluated(self, event: dict[str, Any]) -> set[str]:
        """Losses, as each client told them, and their mean; margins of the mean are the operator's."""
        said, asked = self.adapter(event), (event["round"], EVALUATIONS[event["event"]])
        said |= {"round"} if said or self._evaluators(event) else set[str]()
        for kind, prefix, mean in (("score", "", event), ("own", "own.", event.get("own") or {})):
            scores = mean.get("by_client", {})
            for name in self._evaluators(event):
                told = [each.get(kind) for each in self.losses.get((name, *asked), ())]
                right = canonical(scores.get(name)) in map(canonical, told)
                _check(right, f"{name!r} told another loss in round {event['round']}")
                said.add(f"{prefix}by_client.{name}")
            if scores and all(f"{prefix}by_client.{name}" in said for name in scores):
                for key in ("loss", "change"):
                    _check(mean.get(key) == _mean(scores, key), f"the mean {key} of round {event['round']} is another")
                said |= {f"{prefix}loss", f"{prefix}change"}
        return said

    def _evaluators(self, event: dict[str, Any]) -> set[str]:
        """Clients with a record whose losses an evaluation has, or should have by their answers in the ledger."""
        asked = event["round"], EVALUATIONS[event["event"]]
        sent = () if self.is_masked or self.is_noised else self.answered.get(asked, ())
        return {*event.get("by_client", ()), *sent} & self.records.keys()

    def privacy(self, event: dict[str, Any]) -> set[str]:
        """What was promised, as agreed; and what it cost, where noise or clients' own accounts say it."""
        self.promised, self.counts = event, event["unit"] == "client" and not event.get("guaranteed")
        wants = {"unit": "dp", "delta": "dp-delta", "epsilon": "dp-epsilon"}
        given = {name: self.config[key] for name, key in wants.items() if self.config.get(key)}
        right = all(canonical(event.get(name)) == canonical(given[name]) for name in given)
        _check(right, "another privacy is promised than clients agreed to")
        if self.counts and "epsilon" in given:
            cost = epsilon_of(self.config["rounds"], event["noise_multiplier"], event["delta"])
            _check(math.isclose(cost, event["epsilon"], rel_tol=1e-3), "the noise is of another epsilon")
            given["noise_multiplier"] = event["noise_multiplier"]
        return set(given) if {"rounds", "dp"} <= self.agreed else set[str]()

    def spent(self, event: dict[str, Any]) -> set[str]:
        """Epsilon, computed again from the noise that was drawn; of records, as each client signed it."""
        promised = self.promised
        if "commitment" in event:
            self.draws.add((event["round"], event["commitment"]))
        if promised["unit"] in ("record", "group") and self.is_signed:
            same = event.get("by_client") == self.epsilons and event["epsilon"] == max(self.epsilons.values())
            _check(same and event["delta"] == promised["delta"], "epsilon is not what clients signed")
            return {"by_client", "epsilon", "delta"} if self.epsilons.keys() <= self.records.keys() else set[str]()
        if not self.counts:
            return set[str]()
        cost = epsilon_of(len(self.draws), promised["noise_multiplier"], promised["delta"])
        right = math.isclose(cost, event["epsilon"], rel_tol=1e-6) and event.get("charges", len(self.draws)) == len(
            self.draws
        )
        _check(
            right and event.get("delta", promised["delta"]) == promised["delta"], f"epsilon is not {event['epsilon']}"
        )
        return {"epsilon", "charges", "delta"}

    def sum(self, event: dict[str, Any]) -> set[str]:
        """A sum under masks: of as many clients as sent a part in its round."""
        parts = [client in self.records for client in self.inside.get(event["round"], ())]
        is_known = event["purpose"] == "train" and sum(self.sums[event["round"]]) == len(parts) and all(parts)
        return {"clients"} if is_known else set[str]()


SAYS: dict[str, Any] = {
    "run_started": Story.started, "clients_described": Story.described, "broadcast": Story.message,
    "reply_received": Story.message, "update_received": Story.update, "round_finished": Story.round,
    "step_taken_back": Story.adapter, "evaluated": Story.evaluated, "judged": Story.evaluated,
    "run_finished": Story.finished, "privacy_started": Story.privacy, "privacy_spent": Story.spent,
    "noise_intended": Story.spent, "sum_unmasked": Story.sum,
}  # fmt: skip
"""By kind of event, what says which of its fields clients have said too; of every other kind they say none."""


def _mean(scores: dict[str, Any], key: str) -> float | None:
    """The mean over all tokens."""
    if not all(key in each for each in scores.values()):
        return None
    total = sum(each["tokens"] for each in scores.values())
    return math.fsum(each[key] * each["tokens"] for each in scores.values()) / total


def check_files(folder: Path, files: dict[str, str], digest: str) -> None:
    """The adapter's files, and that its numbers are those that the ledger names."""
    _check(files.keys() <= FILES, "the bundle is of other files than an adapter's")
    for name in files:
        _check(_sha256((folder / name).read_bytes()) == files[name], f"'{name}' is not the file of the bundle")
    data = (folder / "adapter_model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    table = {name: at for name, at in json.loads(data[8 : 8 + size]).items() if name != "__metadata__"}
    layout = canonical([[name, table[name]["shape"]] for name in sorted(table)])
    places = [table[name]["data_offsets"] for name in sorted(table)]
    numbers = b"".join(data[8 + size + start : 8 + size + end] for start, end in places)
    found = _sha256(hashlib.sha256(layout.encode()).digest() + numbers)
    _check(found == digest, "the adapter's numbers are not those that the ledger names")


def check_signer(signer: dict[str, Any], key: Any) -> None:
    """A kit's key is the server's own: its authority has certified it for that role."""
    stands_behind = [signer["kind"], signer["authority"], signer["certificate"]]
    if signer["kind"] != "kit":
        _check(stands_behind == ["own", "", ""], "the signer is described otherwise")
        return
    of, own = (x509.load_pem_x509_certificate(text.encode()) for text in stands_behind[1:])
    check_role(own, of, "plait server", is_server=True)
    texts = [each.public_bytes(serialization.Encoding.PEM).decode() for each in (of, own)]
    _check(own.public_key() == key and texts == stands_behind[1:], "the certificate is of another key")


def checked(bundle: Path, adapter: Path | None, authority: Path | None) -> tuple[list[str], list[str]]:
    """Refuse a bundle, or say what of it was not checked, and what of its ledger is the operator's word."""
    _check(bundle.stat().st_size <= MOST_BYTES, f"the file has more than {MOST_BYTES >> 20} MiB")
    data = bundle.read_bytes()
    signer = json.loads(_unpacked(json.loads(data)["payload"]))["predicate"]["signer"]
    key = serialization.load_der_public_key(_unpacked(signer["key"]))
    statement = opened(data.removesuffix(b"\n"), key, "the bundle")
    said, files = statement["predicate"], {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    kind, known = statement["predicateType"], "https://plait.dev/evidence/v1"
    _check(kind == known, f"the bundle is {kind}, expected {known}: take the script of the plait that made it")
    _check(sorted(said) == PARTS.split(), "the bundle has other parts than expected")
    check_signer(signer, key)
    _check(not authority or authority.read_text() == signer["authority"], "it is of another federation, or of none")
    events = ledger_of(said["ledger"])
    told = figures(events)
    wrong = [name for name in told if canonical(told[name]) != canonical(said["figures"].pop(name, None))]
    _check(not wrong and not said["figures"], f"{wrong or 'more figures'}: not what follows from the ledger")
    clients, run, texts = {each["client"]: each for each in told["clients"]}, events[0]["run"], said["statements"]
    keys = [each["public_key"] for each in told["clients"] if each["public_key"]]
    _check(len(set(keys)) == len(keys), "two clients have one key")
    _check(signer["kind"] != "kit" or len(keys) == len(clients), "a client has no key, in a federation with keys")
    stated = {name: check_statement(texts[name], clients[name], run, signer["authority"], key) for name in texts}
    story = Story(events, stated, signer["authority"])
    for event in story.updates:
        key_of = clients[event["client"]]["public_key"]
        if "signature" in event:
            story.check_base(event, check_update(event, bytes.fromhex(key_of or ""), events[0]))
        _check("signature" in event or not (story.is_signed and key_of), f"{event['client']!r} has signed no update")
    if adapter:
        check_files(adapter, files, told["ended"]["adapter"])
    silent, noise = sorted(clients.keys() - texts.keys()), story.is_noised and not story.is_signed
    doubts = {
        "who signed: the key is the run's own": signer["kind"] == "own",
        "whose federation it is: give --authority with a certificate from elsewhere": not authority,
        "the adapter's files: give --adapter with their directory": not adapter,
        "updates that no client signed": any(each["signed"] < len(each["rounds"]) for each in told["clients"]),
        f"what {', '.join(silent)} agreed to and sent, and whose keys theirs are: there is no statement": silent,
        "epsilon: it follows from accounts outside the ledger": story.is_noised and not story.counts,
        "that the server drew the noise that it promised, and no more often": noise and story.counts,
        "that nothing else happened, and in which order and when": True,
        "what the operator says, the adapter's configuration and card, and what clients say of their data": True,
    }
    return [*(text for text in doubts if doubts[text]), *story.doubts], story.lines()


def shown(line: str) -> str:
    """A line for a terminal: nothing in it moves the cursor."""
    return "".join(each if each.isprintable() else "?" for each in line)[:4000]


def main(arguments: list[str]) -> int:
    """Print what came of it; 0 if the bundle is accepted."""
    parser = argparse.ArgumentParser(description="Check the evidence of a run.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--adapter", type=Path, help="directory of the published adapter")
    parser.add_argument("--authority", type=Path, help="certificate of the federation, from elsewhere than the bundle")
    try:
        unchecked, alone = checked(**vars(parser.parse_args(arguments)))
    except Exception as error:
        is_ours = type(error) is ValueError or isinstance(error, OSError)
        changed = f"the file was changed or cut off, or is no evidence of a run ({type(error).__name__}: {error})"
        print("refused:", shown(str(error) if is_ours else changed), file=sys.stderr)
        return 1
    print("accepted; not checked:", *map(shown, unchecked), sep="\n  ")
    print("the operator's word, which no client's signature says:", *map(shown, alone), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
