"""The bundle of a run: one signed statement over the published adapter's files, with its evidence, and its page.

``docs/evidence/verify.py`` computes the same figures from the ledger on its own, so that the signer of a bundle cannot
make it state otherwise. The page is one screen of what a data-protection officer asks; it checks nothing.
"""

import base64
import hashlib
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, cast

import plait
from plait.adapters.peft import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from plait.errors import ConfigError, PeerError
from plait.evidence.envelope import STATEMENT, Signer, enveloped, opened, statement
from plait.ledger.ledger import Line, canonical, read_lines
from plait.rounds.run_directory import RunDirectory
from plait.system.files import failures_to
from plait.system.text import Json, printable

KIND = "https://plait.dev/evidence/v1"


def bundle_of(
    directory: RunDirectory, signer: Signer, *, statements: Sequence[Path] = (), base_licence: str = ""
) -> tuple[dict[str, Json], bytes]:
    """The evidence of a finished run: what the bundle states, and its bytes.

    Args:
        statements: files of clients, as ``plait evidence --attest`` writes them.

    Raises:
        ConfigError: the run is not finished, or a statement is of another run, another client, or there twice.
        PeerError: the ledger is broken, or a file is no statement.
        MachineError: something cannot be read.
    """
    lines = read_lines(directory.ledger)
    if not any(line["event"] == "run_finished" for line in lines):
        raise ConfigError(f"'{directory.path}' is not finished; `plait resume` continues it")
    found = figures(lines)
    if not directory.adapter.is_dir():
        raise ConfigError(f"'{directory.path}' has no published adapter in '{directory.adapter}'")
    paths = [path for name in (CARD_FILE, CONFIG_FILE, WEIGHTS_FILE) if (path := directory.adapter / name).is_file()]
    files: list[Json] = [
        {"name": path.name, "digest": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}} for path in paths
    ]
    attested = [
        _statement_in(path, str(lines[0]["run"]), {client["client"] for client in found["clients"]})
        for path in statements
    ]
    if len({client for client, _ in attested}) < len(attested):
        raise ConfigError("two statements are of one client; give one of each")
    predicate: dict[str, Json] = {
        "figures": found,
        "ledger": base64.b64encode(zlib.compress(b"".join(canonical(line) + b"\n" for line in lines), 9)).decode(),
        "statements": {client: data.decode().strip() for client, data in sorted(attested)},
        "signer": dict(signer.described),
        "operator_says": {"base_licence": base_licence, "made_at": round(time.time()), "made_with": _code()},
    }
    return predicate, enveloped(statement(files, KIND, predicate), signer)


def _statement_in(path: Path, run: str, known: Collection[str]) -> tuple[str, bytes]:
    """Whose statement a file is, and its bytes."""
    with failures_to(f"read the statement '{path}'", PeerError):
        data = path.read_bytes()
    content = opened(data, what=f"'{path}'")
    try:
        of, client = content["subject"][0]["digest"]["plaitRun"], content["predicate"]["client"]
        if content["predicateType"] != STATEMENT:
            raise ValueError
    except (LookupError, TypeError, ValueError) as error:
        raise PeerError(f"'{path}' is no client's statement; `plait evidence --attest` writes one") from error
    if of != run:
        raise ConfigError(f"'{path}' is of run {str(of)[:16]}, expected one of run {run[:16]}")
    if client not in known:
        raise ConfigError(f"'{path}' is of {str(client)[:60]!r}, which did not take part in the run")
    return str(client), data


def _code() -> dict[str, Json]:
    """Version and digest of the code that makes the bundle, which may be newer than the run."""
    root = Path(plait.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return {"plait": plait.__version__, "sha256": digest.hexdigest()}


_CHAIN = frozenset({"seq", "time", "hash", "prev"})
# What the server adds to a client's own fields.
_OF_SERVER = _CHAIN | {"event", "client", "round", "public_key", "took_s", "norms", "fold", "staleness", "weight"}
JUDGED = ("audited", "client_withdrawn", "judged", "withdrawn")
"""Events of judgements on the adapter, the final figure among them, and of who decided what about it."""
UNCOVERED: Mapping[str, str] = {
    "": "what the adapter tells",
    "client": "what the server sees",
    "record": "what a client's records share",
    "group": "what groups of records share",
}
"""What is not covered, by the unit of differential privacy; empty for none."""


def figures(lines: Sequence[Line]) -> dict[str, Any]:
    """The figures of a run."""
    events = cast("Sequence[dict[str, Any]]", lines)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_kind.setdefault(event["event"], []).append(_bare(event))
    losses = by_kind.get("evaluated", [])
    return {
        "made": _bare(events[0]),
        "ended": by_kind["run_finished"][-1],
        "head": events[-1]["hash"],
        "rounds": len(by_kind.get("round_finished", ())),
        "held_out_loss": [losses[0]["loss"], losses[-1]["loss"]] if losses else None,
        "clients": _clients(events),
        "privacy": _privacy(by_kind),
        "judged": [_bare(event) for event in events if event["event"] in JUDGED],
    }


def _bare(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _CHAIN}


def _clients(events: Sequence[dict[str, Any]]) -> list[Json]:
    """What came from each client, and what went to it, in the order of names."""
    found: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        empty: dict[str, Any] = {
            "client": name, "public_key": None, "rounds": [], "messages": 0, "uplink_bytes": 0, "downlink_bytes": 0,
            "signed": 0, "fields": set(),
        }  # fmt: skip
        return found.setdefault(name, empty)

    for event in events:
        kind = event["event"]
        if kind == "clients_described":
            for card in event["clients"]:
                client = of(card["client"])
                client["public_key"] = card.get("public_key")
                client["fields"] |= {f"description: {key}" for key in card if key not in _OF_SERVER}
        elif kind == "broadcast":
            of(event["client"])["downlink_bytes"] += event["downlink_bytes"]
        elif kind in ("reply_received", "update_received"):
            client = of(event["client"])
            client["messages"] += 1
            client["uplink_bytes"] += event.get("uplink_bytes", 0)
            if kind == "update_received":
                client["rounds"].append(event["round"])
                client["signed"] += "signature" in event
                client["fields"] |= {f"update: {key}" for key in event if key not in _OF_SERVER}
        elif kind in ("evaluated", "judged"):
            for name, score in event.get("by_client", {}).items():
                of(name)["fields"] |= {f"evaluation: {key}" for key in score}
    return [found[name] | {"fields": sorted(found[name]["fields"])} for name in sorted(found)]


def _privacy(by_kind: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Json]:
    """What was promised and spent."""
    promised, spent = by_kind.get("privacy_started", [None])[0], by_kind.get("privacy_spent", [None])[-1]
    sums = [each["clients"] for each in by_kind.get("sum_unmasked", ())]
    return {
        "promised": promised,
        "spent": spent,
        "draws": len({(each["round"], each["commitment"]) for each in by_kind.get("noise_intended", ())}),
        "mechanism": "Gaussian; accountant: exact composition (arXiv 1905.02383, 1805.06530)" if promised else None,
        "not_covered": UNCOVERED[promised["unit"] if promised else ""],
        "clients_in_masked_sums": sums,
    }


_STYLE = """body{font:14px/1.4 system-ui,sans-serif;max-width:70rem;margin:1rem auto;padding:0 1rem;color:#222}
h1{font-size:1.3rem;margin:0}h2{font-size:1rem;margin:1rem 0 .3rem}table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid #ddd;padding:.2rem .5rem;text-align:left;vertical-align:top}
code{color:#666;font-size:12px}"""


def page_of(predicate: Mapping[str, Json]) -> str:
    """The page, in HTML that asks no other machine for anything."""
    figures = cast("dict[str, Any]", predicate["figures"])
    title = f"Evidence of run {figures['made'].get('name') or figures['made'].get('run', '')}"
    answers = "".join(
        f"<tr><td>{_text(question)}<td>{_text(answer)}<td><code>{_text(field)}</code></tr>"
        for question, answer, field in _answers(cast("Any", predicate), figures)
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title><style>{_STYLE}</style>'
        f"<h1>{_text(title)}</h1><p>Check the bundle with docs/evidence/verify.py before you rely on this page.</p>"
        f"<table><tr><th>Question<th>Answer<th>Field</tr>{answers}</table></html>\n"
    )


def _answers(predicate: dict[str, Any], figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    made, privacy, clients = figures["made"], figures["privacy"], figures["clients"]
    base = f"{made['base']['name']} ({made['base']['fingerprint'][:16]})"
    licence = predicate["operator_says"]["base_licence"] or "licence not stated"
    names = ", ".join(sorted(client["client"] for client in clients))
    sent = sum(client["uplink_bytes"] for client in clients), sum(client["messages"] for client in clients)
    fields = ", ".join(sorted({field for client in clients for field in client["fields"]}))
    spent, promised, sums = privacy["spent"], privacy["promised"], privacy["clients_in_masked_sums"]
    cost = f"epsilon {spent['epsilon']:.4g} at delta {spent['delta']:g}, unit {promised['unit']}" if spent else "none"
    attacks = [each for event in figures["judged"] if event["event"] == "audited" for each in event["attacks"]]
    found = "; ".join(f"{each['name']}: AUC {each['auc']:.3f} ± {each['margin']:.3f}" for each in attacks)
    decided = "; ".join(_decision(event) for event in figures["judged"] if event["event"] != "audited")
    is_kit = predicate["signer"]["kind"] == "kit"
    return [
        ("What was made?", f"adapter {figures['ended'].get('adapter', '')[:16]}", "figures.ended.adapter"),
        ("In how many rounds?", str(figures["rounds"]), "figures.rounds"),
        ("From which model?", f"{base}, {licence}", "figures.made.base"),
        ("Who took part?", f"{len(clients)}: {names}", "figures.clients"),
        ("Which clients signed a statement?", ", ".join(sorted(predicate["statements"])) or "none", "statements"),
        *(
            (f"What does {client} state about its data?", str(said), f"statements.{client}")
            for client, file in sorted(predicate["statements"].items())
            if (said := opened(file.encode(), what=f"the statement of '{client}'")["predicate"].get("about_data"))
        ),
        ("What left the sites?", f"{sent[0]:,} bytes in {sent[1]:,} messages", "figures.clients.uplink_bytes"),
        ("Which fields?", fields, "figures.clients.fields"),
        ("Did records leave?", "no field holds any; numbers can reveal some", "figures.clients.fields"),
        ("What did the server see?", f"sums of {min(sums)} or more" if sums else "every update", "figures.privacy"),
        ("Differential privacy?", cost, "figures.privacy"),
        ("What is not covered?", privacy["not_covered"], "figures.privacy.not_covered"),
        ("Do attacks find anything?", found or "none recorded (plait audit --record)", "figures.judged"),
        ("Who decided on its release?", decided or "no condition was set", "figures.judged"),
        (
            "Who signed this?",
            "the federation's server" if is_kit else "a key of the run's own, which identifies no one",
            "signer",
        ),
    ]


def _decision(event: Mapping[str, Any]) -> str:
    parts = (str(event[key]) for key in ("by", "reason", "condition", "client") if event.get(key))
    return ": ".join((event["event"].replace("_", " "), *parts))


def _text(text: str) -> str:
    return escape(printable(text, limit=2000))
