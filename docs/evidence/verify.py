#!/usr/bin/env python3
"""Check the evidence of a run: ``python verify.py BUNDLE [--adapter DIR] [--authority ca.crt]``.

Needs Python 3.11 and ``cryptography`` alone. Exit code 0: accepted, and what could not be checked is said. 1: refused.
"""

import argparse
import base64
import hashlib
import json
import math
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
JSON_TYPE = "application/vnd.in-toto+json"
CHAIN = {"seq", "time", "hash", "prev"}
OF_SERVER = CHAIN | {"event", "client", "round", "public_key", "took_s", "norms", "fold", "staleness", "weight"}
JUDGED = ("audited", "client_withdrawn", "withdrawn")
UNCOVERED = {"": "what the adapter tells", "client": "what the server sees", "record": "what a client's records share"}
PARTS = "figures ledger operator_says signer statements"
SAID = "about_data bytes certificate client consent endorsement fields messages policy public_key record updates"
METRICS = ("train_loss", "first_loss", "learning_rate", "shortened", "reward", "train_s", "distortion")
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
    key.verify(signature, data, *(() if is_edwards else (ec.ECDSA(hashes.SHA256()),)))
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


def ledger_of(packed: str) -> list[dict[str, Any]]:
    """The lines of the ledger, their chain recomputed."""
    stream, packed_bytes = zlib.decompressobj(), _unpacked(packed)
    data, lines, before = stream.decompress(packed_bytes, 1 << 30), list[dict[str, Any]](), "0" * 64
    _check(stream.eof and not stream.unused_data, "the ledger is cut off, or something follows it")
    for number, raw in enumerate(data.split(b"\n")[:-1]):
        line = json.loads(raw)
        before, prev = _sha256(canonical({key: line[key] for key in line if key != "hash"}).encode()), before
        whole = (line["seq"], line["prev"], line["hash"], raw) == (number, prev, before, canonical(line).encode())
        _check(whole, f"line {number + 1} of the ledger breaks its chain")
        lines.append(line)
    _check(data.endswith(b"\n") and lines[0]["event"] == "run_started", "the ledger is cut off, or is not of a run")
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
        scores = event.get("by_client", {}) if kind == "evaluated" else {}
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


def unchecked_epsilon(privacy: dict[str, Any]) -> bool:
    """Recompute epsilon where all that it follows from is in the ledger; whether it is not."""
    promised, spent = privacy["promised"], privacy["spent"]
    if not promised or promised["unit"] != "client" or promised.get("guaranteed") or promised.get("separation", 1) > 1:
        return bool(promised)
    mu, delta, low, high = math.sqrt(privacy["draws"]) / promised["noise_multiplier"], promised["delta"], 0.0, 700.0
    for _ in range(200):  # Balle and Wang, arXiv 1805.06530, theorem 8
        epsilon = (low + high) / 2
        left, right = (math.erfc((epsilon / mu + sign * mu / 2) / math.sqrt(2)) / 2 for sign in (-1, 1))
        low, high = (low, epsilon) if left - math.exp(epsilon) * right <= delta else (epsilon, high)
    return bool(_check(math.isclose(high, spent["epsilon"], rel_tol=1e-6), f"epsilon is not {spent['epsilon']}"))


def _varint(data: bytes, place: int) -> tuple[int, int]:
    end = place
    while data[end] & 128:
        end += 1
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


def check_update(event: dict[str, Any], key: bytes, first: dict[str, Any]) -> str:
    """A client's own signature on its update, and that the ledger says what it signed; its digest."""
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
    for name in said:
        _check(name not in event or event[name] == said[name], f"{name} of {what} is not what its client signed")
    return _sha256(data)


def check_statement(text: str, told: dict[str, Any], run: str, signed: set[str], authority: str) -> str:
    """A client's own statement; what its record has beyond the ledger, in words."""
    name, key = told["client"], ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(told["public_key"] or ""))
    statement = opened(text.encode(), key, f"the statement of {name!r}")
    said = statement["predicate"]
    subject, kind = statement["subject"], statement["predicateType"] == "https://plait.dev/client-statement/v1"
    _check(kind and subject == [{"name": "run", "digest": {"plaitRun": run}}], f"{name!r} states another run")
    _check(sorted(said) == SAID.split() and said["client"] == name, f"the statement of {name!r} is another's")
    _check(signed <= set(said["updates"]), f"the ledger has an update that is not in the record of {name!r}")
    more = said["messages"] - told["messages"], said["bytes"] - told["uplink_bytes"]
    _check(min(more) >= 0, f"the ledger says that {name!r} sent more than its own record")
    certificate = x509.load_der_x509_certificate(_unpacked(said["certificate"]))
    parts = (b"plait node key 1", name.encode(), bytes.fromhex(told["public_key"]))
    endorsed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    certificate.public_key().verify(_unpacked(said["endorsement"]), endorsed, ec.ECDSA(hashes.SHA256()))  # type: ignore[union-attr,call-arg]
    _check(certificate.subject.rfc4514_string() == f"CN={name}", f"the certificate of {name!r} is not its own")
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    return f"{name!r} sent {more[0]} messages and {more[1]} bytes more than the ledger has" if any(more) else ""


def check_files(folder: Path, files: dict[str, str], digest: str) -> None:
    """The adapter's files, and that its numbers are those that the ledger names."""
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


def checked(bundle: Path, adapter: Path | None, authority: Path | None) -> list[str]:
    """Refuse a bundle, or say what of it was not checked."""
    data = bundle.read_bytes()
    signer = json.loads(_unpacked(json.loads(data)["payload"]))["predicate"]["signer"]
    key = serialization.load_der_public_key(_unpacked(signer["key"]))
    statement = opened(data.removesuffix(b"\n"), key, "the bundle")
    said, files = statement["predicate"], {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    is_evidence = statement["predicateType"] == "https://plait.dev/evidence/v1"
    _check(is_evidence and sorted(said) == PARTS.split(), "the bundle has other parts than expected")
    events = ledger_of(said["ledger"])
    told = figures(events)
    wrong = [name for name in told if canonical(told[name]) != canonical(said["figures"].pop(name, None))]
    _check(not wrong and not said["figures"], f"{wrong or 'more figures'}: not what follows from the ledger")
    clients = {each["client"]: each for each in told["clients"]}
    stands_behind = [signer["kind"], signer["authority"], signer["certificate"]]
    if signer["kind"] == "kit":
        of, own = (x509.load_pem_x509_certificate(text.encode()) for text in stands_behind[1:])
        own.verify_directly_issued_by(of)
        texts = [each.public_bytes(serialization.Encoding.PEM).decode() for each in (of, own)]
        _check(own.public_key() == key and texts == stands_behind[1:], "the certificate is of another key")
    _check(signer["kind"] == "kit" or stands_behind == ["own", "", ""], "the signer is described otherwise")
    _check(not authority or authority.read_text() == signer["authority"], "it is of another federation, or of none")
    signed: dict[str, set[str]] = {name: set() for name in clients}
    for event in (each for each in events if each["event"] == "update_received" and "signature" in each):
        key_of = bytes.fromhex(clients[event["client"]]["public_key"] or "")
        signed[event["client"]].add(check_update(event, key_of, events[0]))
    run, texts = events[0]["run"], said["statements"]
    more = [check_statement(texts[name], clients[name], run, signed[name], signer["authority"]) for name in texts]
    if adapter:
        check_files(adapter, files, told["ended"]["adapter"])
    silent = sorted(clients.keys() - texts.keys())
    doubts = {
        "who signed: the key is the run's own": signer["kind"] == "own",
        "whose federation it is: give --authority with a certificate from elsewhere": not authority,
        "the adapter's files: give --adapter with their directory": not adapter,
        "updates that no client signed": any(each["signed"] < len(each["rounds"]) for each in told["clients"]),
        f"what left {', '.join(silent)} by their own records: there is no statement of theirs": silent,
        "epsilon: it follows from accounts outside the ledger": unchecked_epsilon(told["privacy"]),
        "what the operator says, and what clients say of their data": True,
    }
    return [*(text for text in doubts if doubts[text]), *filter(None, more)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check the evidence of a run.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--adapter", type=Path, help="directory of the published adapter")
    parser.add_argument("--authority", type=Path, help="certificate of the federation, from elsewhere than the bundle")
    try:
        print("accepted; not checked:", *checked(**vars(parser.parse_args())), sep="\n  ")
    except Exception as error:
        sys.exit(f"refused: {str(error) or 'a signature is of another key'}")
