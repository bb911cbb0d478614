"""Evidence that its operator rewrites and signs again: refused, or what nobody else says is listed as the operator's.

The operator has the server's key, may rewrite the whole ledger with its chain and figures, and leave statements out;
members and an observer have keys of the same authority. Runs are real ones over gRPC with kits.
"""

import base64
import contextlib
import copy
import os
import resource
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scoreboard.row import Row
from scoreboard.small_federation import borrowed

from plait.evidence.envelope import Signer, enveloped
from plait.ledger.ledger import canonical
from plait.trust.keys import NodeKey, key_pem, new_key, read_key
from plait.trust.provision import provision

small = borrowed("plait/evidence/conftest.py")
verify = small.verifier_module()
leaves, packed, with_change = small.leaves, small.packed, small.with_change
NOISED = {"dp": "record", "dp_epsilon": 20.0, "dp_delta": 1e-3}
RUNS: dict[str, dict[str, object]] = {"open": {}, "masked": {"secure_aggregation": True}, "noised": NOISED}
OF_CHAIN = ("seq", "hash", "prev", "event")
Line = dict[str, Any]
Change = Callable[[list[Line], dict[str, Any]], object]


def forged(signed: Any, change: Change) -> bytes:
    """A bundle of which ledger and statements were changed, its chain and figures computed again, signed again."""
    statement = signed.statement
    predicate, before = statement["predicate"], "0" * 64
    lines = verify.ledger_of(predicate["ledger"])
    change(lines, predicate)
    for number, line in enumerate(lines):
        line |= {"seq": number, "prev": before}
        unhashed = {key: value for key, value in line.items() if key != "hash"}
        line["hash"] = before = verify._sha256(canonical(unhashed).decode().encode())
    predicate["ledger"] = packed(lines)
    with contextlib.suppress(KeyError, TypeError, AttributeError, IndexError):  # then no reader gets further
        predicate["figures"] = verify.figures(lines)
    return signed.signed_again(statement)


def complaint(name: str, data: bytes, scratch: Path, listed: Callable[[list[str], list[str]], bool]) -> str:
    """What is wrong: a changed bundle is accepted, and no line says so."""
    (scratch / "forged").write_bytes(data)
    try:
        doubts, alone = verify.checked(scratch / "forged", None, None)
    except Exception:
        return ""
    return "" if listed(doubts, alone) else f"{name}: accepted"


def fields(signed: Any, scratch: Path, *, alike: Sequence[str]) -> Iterator[str]:
    """Every field of an event, changed and taken away; of events that are alike in these fields, of the first."""
    lines, tried = verify.ledger_of(signed.statement["predicate"]["ledger"]), set[tuple[object, ...]]()
    _, honest = verify.checked(signed.bundle, None, None)  # what is the operator's may be taken away, too
    for index, line in enumerate(lines):
        like = tuple(line.get(name) for name in alike)
        if like in tried:
            continue
        tried.add(like)
        for path in (each for each in leaves(line) if each[0] not in OF_CHAIN):
            name = ".".join(key for key in path if isinstance(key, str))

            def is_listed(_: list[str], alone: list[str], kind: str = line["event"], name: str = name) -> bool:
                said = [each.partition(": ")[2] for each in alone if each.startswith(f"{kind}: ")]
                return name == "time" or any(f"{name}.".startswith(f"{each}.") for each in ", ".join(said).split(", "))

            for without in (False, True):

                def rewrite(
                    others: list[Line], _: Any, at: int = index, path: Any = path, without: bool = without
                ) -> None:
                    others[at] = with_change(others[at], path, without=without)

                what = f"{line['event']}.{name}{' taken away' if without else ''}"
                if not (without and is_listed([], honest)):
                    yield complaint(what, forged(signed, rewrite), scratch, is_listed)


def _each(kind: str, lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["event"] == kind]


def _settings(**settings: object) -> Change:
    return lambda lines, _: lines[0]["config"].update({key.replace("_", "-"): value for key, value in settings.items()})


def _other_rule(lines: list[Line], _: Any) -> None:
    lines[0]["config"]["rule"] = lines[0]["rule"]["name"] = "krum"
    for line in _each("round_finished", lines):
        line["rule"] = "krum"


def _insert_privacy(lines: list[Line], _: Any) -> None:
    promised = {"event": "privacy_started", "unit": "client", "delta": 1e-5, "clients": 3}
    promised |= {"noise_multiplier": 10.0, "epsilon": 8.0}
    drawn = {"event": "noise_intended", "round": 1, "commitment": "00", "clip_norm": 1.0, "epsilon": 1.0}
    spent = {"event": "privacy_spent", "round": 2, "epsilon": 1.0, "delta": 1e-5}
    lines[1:1] = [{**each, "time": 0.0} for each in (promised, drawn, spent)]


def _strip(lines: list[Line], _: Any) -> None:
    line = _each("update_received", lines)[0]
    del line["signed"], line["signature"]
    line |= {"examples": 999, "train_loss": 0.1}


def _drop(*, booked: bool) -> Change:
    def change(lines: list[Line], _: Any) -> None:
        line = _each("update_received", lines)[-1]
        lines.remove(line)
        if booked:
            reply = next(each for each in _each("reply_received", lines) if each["client"] == line["client"])
            reply["uplink_bytes"] += line["uplink_bytes"]

    return change


def _more_rounds(lines: list[Line], _: Any) -> None:
    last = _each("round_finished", lines)[-1]
    more = [{**last, "round": number} for number in range(3, 8)]
    at = lines.index(last) + 1
    lines[at:at] = more
    _each("run_finished", lines)[0] |= {"rounds": 7, "kept_round": 7}


def _other_adapter(lines: list[Line], _: Any) -> None:
    ended = _each("run_finished", lines)[0]
    for line in lines:
        if line.get("adapter") == ended["adapter"] and line is not ended:
            line["adapter"] = "ab" * 32
    ended["adapter"] = "ab" * 32


def _other_key(lines: list[Line], predicate: dict[str, Any]) -> None:
    """A client's updates are signed by a key that the operator made, and its statement is left out."""
    key, name = NodeKey.generate(), _each("update_received", lines)[0]["client"]
    del predicate["statements"][name]
    for line in lines:
        for card in line.get("clients", ()) if line["event"] == "clients_described" else ():
            card["public_key"] = key.public_bytes.hex() if card["client"] == name else card["public_key"]
        if line["event"] == "update_received" and line["client"] == name:
            line["signature"] = key.sign(bytes.fromhex(line["signed"])).hex()


STORIES: dict[str, tuple[Change, str]] = {
    "differential privacy that never was": (_insert_privacy, ""),
    "differential privacy in the settings": (_settings(dp="client", dp_epsilon=8.0), ""),
    "another rule": (_other_rule, ""),
    "masks that never were": (_settings(secure_aggregation=True), ""),
    "seven rounds in the settings": (_settings(rounds=7), ""),
    "seven rounds": (_more_rounds, ""),
    "a signature taken away": (_strip, ""),
    "an update left out": (_drop(booked=False), ""),
    "an update left out, its bytes another answer's": (_drop(booked=True), ""),
    "bytes below zero": (lambda lines, _: _each("broadcast", lines)[0].update(downlink_bytes=-5), ""),
    "another adapter": (_other_adapter, ""),
    "an update twice": (lambda lines, _: lines.insert(-1, copy.deepcopy(_each("update_received", lines)[0])), ""),
    "an answer twice": (lambda lines, _: lines.insert(-1, dict(_each("reply_received", lines)[0])), "gave again"),
    "a loss left out": (lambda lines, _: _each("evaluated", lines)[0]["by_client"].pop("ada"), ""),
    "a key that the operator made": (_other_key, "there is no statement"),
    "no statements": (lambda _, predicate: predicate["statements"].clear(), "there is no statement"),
}  # fmt: skip
"""What an operator may claim; where it cannot be refused, what a line must say."""


def stories(signed: Any, scratch: Path) -> Iterator[str]:
    for name, (change, says) in STORIES.items():

        def is_listed(doubts: list[str], _: list[str], says: str = says) -> bool:
            return bool(says) and any(says in each for each in doubts)

        yield complaint(name, forged(signed, change), scratch, is_listed)


def signers(signed: Any, scratch: Path) -> Iterator[str]:
    """Keys that the authority has certified for another role, its own, and one that nobody has."""
    kits, own = signed.kits, scratch / "own"
    own.mkdir()
    (own / "own.key").write_bytes(key_pem(new_key()))
    (own / "own.key").chmod(0o600)
    keys = {"a member": kits / "clients/ada/client", "an operator": kits / "operators/olga/operator",
            "the authority": kits / "authority/ca", "nobody": own / "own"}  # fmt: skip
    for name, place in keys.items():
        key, statement = read_key(place.with_suffix(".key")), signed.statement
        certificate = place.with_suffix(".crt") if name != "nobody" else kits / "server/server.crt"
        signer = statement["predicate"]["signer"]
        public = key.public_key().public_bytes(
            verify.serialization.Encoding.DER, verify.serialization.PublicFormat.SubjectPublicKeyInfo
        )
        signer |= {"key": base64.b64encode(public).decode(), "certificate": certificate.read_text()}
        yield complaint(f"signed by {name}", enveloped(statement, Signer.of(key)), scratch, lambda *_: False)


def said_of(given: Path) -> str:
    """What the program prints, in a process that may take 768 MiB more than this one."""
    out = given.with_suffix(".out")
    pid = os.fork()
    if not pid:
        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (768 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for stream in (1, 2):
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", errors="surrogateescape") for stream in (1, 2))
        with contextlib.suppress(BaseException):
            verify.main([str(given)])
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    return out.read_text(errors="replace")


def terminal(signed: Any, scratch: Path) -> Iterator[str]:
    """Files that would take gigabytes, and names that would move the cursor."""
    bomb = signed.statement
    bomb["predicate"]["ledger"] = base64.b64encode(zlib.compress(b"[" + b"[]," * (60 << 20) + b"0]\n", 9)).decode()
    deep = enveloped({"predicate": {"signer": "D"}}, Signer.of(new_key())).replace(b'"D"', b"[" * 100_000)
    given = {
        "a bomb": signed.signed_again(bomb),
        "escapes": forged(signed, lambda lines, _: lines[1].update({"\x1b[2J": 1})),
        "escapes in what is refused": forged(
            signed, lambda lines, _: lines[0]["config"].update({"dp-\x1b[2J": 1, "rule": "x"})
        ),
        "depth": b"[" * 200_000,
        "depth in it": deep,
    }
    for name, data in given.items():
        (scratch / name).write_bytes(data)
        said = said_of(scratch / name)
        is_told = said.startswith(("accepted", "refused: ")) and "MemoryError" not in said and len(said) > 20
        yield "" if is_told and "\x1b" not in said else f"{name}: {said[-200:]!r}"


def run(*, full: bool, scratch: Path) -> Row:
    """Every field of every event of three runs (quick: of one event of each kind of one), and every story and role."""
    complaints, figures = list[str](), dict[str, object]()
    for name in RUNS if full else ("open",):
        # Each has kits of its own: a client whose kit has seen another state takes no part under masks.
        kits = scratch / name / "kits"
        provision(kits, small.NAMES, ("localhost",), operators=("olga",), now=datetime.now(UTC))
        signed = small.federated(scratch / name, kits, **RUNS[name])
        doubts, _ = verify.checked(signed.bundle, signed.run / "adapter", kits / "server/ca.crt")
        complaints += [f"{name}: {each}" for each in doubts if "no statement" in each]
        alike = ("seq",) if full and name == "open" else ("event", "purpose", "round") if full else ("event",)
        found = list(fields(signed, scratch, alike=alike))
        figures[f"fields of a run that is {name}"] = len(found)
        complaints += found
        if name == "open":
            complaints += [*stories(signed, scratch), *signers(signed, scratch), *terminal(signed, scratch)]
    return Row.of("evidence rewritten by its operator", complaints, least=1800 if full else 300, **figures)
