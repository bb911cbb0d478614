"""What a bundle says of a run because its ledger says it: each figure follows from the lines, and from nothing else.

``docs/evidence/verify.py`` computes the same on its own, so that the signer of a bundle cannot make it say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from plait.adapters import Json
from plait.rounds.ledger import Line

_CHAIN = frozenset({"seq", "time", "hash", "prev"})
# What the server adds to what a client says.
_OF_SERVER = _CHAIN | {"event", "client", "round", "public_key", "took_s", "norms", "fold", "staleness", "weight"}
JUDGED = ("audited", "client_withdrawn", "withdrawn")
"""Events that say what is thought of the adapter, and who decided what about it."""
UNCOVERED: Mapping[str, str] = {
    "": "what the adapter tells",
    "client": "what the server sees",
    "record": "what a client's records share",
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
        elif kind == "evaluated":
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
