"""A synthetic ledger, built as the round loop writes one, with numbers that a test can follow by hand."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from plait.config import config_from_table
from plait.ledger.events import parse_event
from plait.ledger.ledger import Ledger, read_events
from plait.ledger.run_view import RunView
from plait.settings.table import read_config_table

Event = dict[str, object]

CONFIG: dict[str, object] = {
    "data": "stdlib",
    "base": "smollm2-135m",
    "partition": "natural:package",
    "clients": 2,
    "rounds": 2,
    "local-steps": 4,
    "learning-rate": 0.001,
    "rank": 8,
    "seed": 7,
    "out": "runs/first",
}


def numbered(events: Sequence[Event]) -> list[Event]:
    """Add the fields that the ledger adds: numbers, and a time that goes on by 10 s an event."""
    return [
        {"seq": index, "time": 1000.0 + 10 * index, **event, "hash": f"{index:064x}"}
        for index, event in enumerate(events)
    ]


def recorded(path: Path, events: Iterable[Any], **how: Any) -> None:
    """Write events to a ledger, new or begun."""
    ledger = Ledger(path, **how)
    for event in events:
        ledger.append(event)
    ledger.close()


def view_of(events: Sequence[Event]) -> RunView:
    """The view of a ledger with these lines."""
    return RunView.of(map(parse_event, events))


def run_started(**fields: object) -> Event:
    return {
        "event": "run_started",
        "run": "c0ffee",
        "name": "first",
        "seed": 7,
        "config": CONFIG,
        "base": {"name": "smollm2-135m", "fingerprint": "ab" * 32, "parameters": 1_000_000, "task": "causal-lm"},
        "adapter": {
            "method": "lora",
            "rank": 8,
            "alpha": 16.0,
            "target_modules": ["q_proj", "v_proj"],
            "trainable_parameters": 1000,
            "tensors": 4,
            "spec_digest": "cd" * 32,
        },
        "full_model_bytes": 4_000_000,
        "versions": {"plait": "0.1.0", "python": "3.11"},
        "machine": {"cpu": "two cores", "threads": 2},
        **fields,
    }


def described(*names: str, tokens: int = 500) -> Event:
    clients = [
        {
            "client": name,
            "train_examples": 10,
            "train_tokens": tokens * (index + 1),
            "held_out_examples": 2,
            "held_out_tokens": 100,
            "histogram": {name: 10, "shared": 5},
        }
        for index, name in enumerate(names)
    ]
    return {"event": "clients_described", "clients": clients}


_CODED = {"codec": "fp32", "bits_per_parameter": 32.0, "codec_s": 0.01}


def broadcast(number: int, client: str, downlink_bytes: int, purpose: str = "train") -> Event:
    return {
        "event": "broadcast",
        "round": number,
        "client": client,
        "purpose": purpose,
        "downlink_bytes": downlink_bytes,
        "payload_bytes": downlink_bytes - 1,
        "distortion": None,
        **_CODED,
    }


def received(number: int, client: str, uplink_bytes: int, *, tokens: int = 100, train_s: float = 2.0) -> Event:
    return {
        "event": "update_received",
        "round": number,
        "client": client,
        "uplink_bytes": uplink_bytes,
        "payload_bytes": uplink_bytes - 1,
        "distortion": 0.0,
        **_CODED,
        "examples": 16,
        "tokens": tokens,
        "train_loss": 3.0,
        "train_s": train_s,
        "digest": "ef" * 32,
    }


def replied(number: int, client: str, uplink_bytes: int, purpose: str = "evaluate") -> Event:
    where = {"round": number, "client": client, "purpose": purpose}
    return {"event": "reply_received", **where, "uplink_bytes": uplink_bytes}


def evaluated(number: int, loss: float, by_client: dict[str, float]) -> Event:
    scores = {name: {"loss": own, "tokens": 100} for name, own in by_client.items()}
    return {"event": "evaluated", "round": number, "loss": loss, "by_client": scores}


def round_finished(number: int, got: int, refused: int = 0) -> Event:
    return {
        "event": "round_finished",
        "round": number,
        "adapter": f"{number:064x}",
        "rule": "fedavg",
        "received": got,
        "refused": refused,
        "update_norm": 0.5,
        "diagnostics": {
            "exact_norm": 2.0,
            "error": 0.01,
            "covariance": 0.01,
            "effective_rank": 4.5,
            "agreement": 0.9,
            "modules": 8,
            "drift": {"ann": 1.0, "bob": 1.25},
            "update_norms": {"ann": 0.5, "bob": 0.75},
        },
        "wall_s": 20.0,
    }


def finished(rounds: int, wall_s: float = 77.0) -> Event:
    used = {"wall_s": wall_s, "peak_rss_bytes": 1_500_000_000}
    return {"event": "run_finished", "rounds": rounds, **used, "adapter": "12" * 32}


@pytest.fixture
def small_run() -> list[Event]:
    return small_events()


def small_events() -> list[Event]:
    """Two clients, two rounds, every byte a round number."""
    return numbered(
        [
            run_started(),
            broadcast(0, "ann", 10, "describe"),
            replied(0, "ann", 20, "describe"),
            broadcast(0, "bob", 10, "describe"),
            replied(0, "bob", 20, "describe"),
            described("ann", "bob"),
            evaluated(0, 4.0, {"ann": 3.0, "bob": 5.0}),
            {"event": "round_started", "round": 1, "cohort": ["ann", "bob"]},
            broadcast(1, "ann", 1000),
            broadcast(1, "bob", 2000),
            received(1, "ann", 3000, tokens=100, train_s=2.0),
            received(1, "bob", 4000, tokens=300, train_s=2.0),
            round_finished(1, 2),
            broadcast(1, "ann", 100, "evaluate"),
            replied(1, "ann", 50),
            evaluated(1, 3.5, {"ann": 2.75, "bob": 4.25}),
            {"event": "round_started", "round": 2, "cohort": ["ann", "bob"]},
            broadcast(2, "ann", 1000),
            broadcast(2, "bob", 2000),
            received(2, "ann", 3000, tokens=100, train_s=2.0),
            received(2, "bob", 4000, tokens=300, train_s=2.0),
            round_finished(2, 2),
            evaluated(2, 3.0, {"ann": 2.5, "bob": 3.5}),
            {
                "event": "reference",
                "kind": "central",
                "held_out_loss_by_round": [4.0, 3.4, 2.9],
                "held_out_loss": 2.9,
                "by_client": {"ann": 2.4, "bob": 3.4},
                "wall_s": 30.0,
                "steps": 16,
                "batch_size": 4,
            },
            finished(2),
        ]
    )


HOSTILE_NAMES = (
    "<script>alert(1)</script>",
    "[red]x[/red]",
    "\x1b[31mred\x1b[0m",
    "$\\frac{1}{$",
    "_hidden",
    "\u202eevil",
    '"><img src=x onerror=alert(1)>',
)


@pytest.fixture
def hostile_run() -> list[Event]:
    """Unfinished and interrupted, by clients whose names attack pages, terminals and plots."""
    losses = {name: 3.0 + index for index, name in enumerate(HOSTILE_NAMES)}
    first = HOSTILE_NAMES[0]
    return numbered(
        [
            run_started(name=first, config={**CONFIG, "data": "a b'; rm -rf ~", "rounds": 5, "note": first}),
            described(*HOSTILE_NAMES),
            evaluated(0, 6.0, losses),
            {"event": "round_started", "round": 1, "cohort": list(HOSTILE_NAMES)},
            *(broadcast(1, name, 1000) for name in HOSTILE_NAMES),
            *(received(1, name, 2000) for name in HOSTILE_NAMES[1:]),
            {
                "event": "update_refused",
                "round": 1,
                "client": first,
                "reason": "not-finite",
                "detail": "tensor '<b>A</b>' holds NaN\x1b[2J",
                "uplink_bytes": 2000,
            },
            round_finished(1, 6, 1),
            evaluated(1, 5.5, losses),
            {"event": "reference", "kind": first, "held_out_loss": 5.0, "held_out_loss_by_round": [6.0, 5.0]},
            {"event": "interrupted", "round": 1},
        ]
    )


@pytest.fixture
def write_ledger(tmp_path: Path) -> Callable[[Sequence[Event]], Path]:
    """Write events as a real, hash-chained ledger and answer with its run directory."""

    def write(events: Sequence[Event]) -> Path:
        times = iter([float(str(event["time"])) for event in events])
        recorded(tmp_path / "ledger.jsonl", map(parse_event, events), clock=times.__next__)
        return tmp_path

    return write


def begun_otherwise(run: Path, change: Callable[[str], str]) -> None:
    """Make a run one that had begun with other settings: its config.toml, and its ledger with a chain of its own."""
    config = run / "config.toml"
    config.write_text(change(config.read_text()))
    events = read_events(run / "ledger.jsonl")
    (run / "ledger.jsonl").unlink()
    first = events[0].model_copy(update={"config": config_from_table(read_config_table(config), where="").to_table()})
    recorded(run / "ledger.jsonl", (first, *events[1:]))


@pytest.fixture
def run_with_margins(small_run: list[Event]) -> list[Event]:
    """The small run with how sure its losses are, as mean_loss says it."""

    def sure(scores: Event, change: float) -> Event:
        moved = {"change": change, "change_margin": 0.125} if change else {}
        return scores | {"loss_margin": 0.5} | moved

    def made(event: Event) -> Event:
        change = {1: -0.5, 2: -1.0}.get(int(str(event["round"])), 0.0)
        by_client = {name: sure(scores, change) for name, scores in event["by_client"].items()}  # type: ignore[attr-defined]
        return sure(event, change) | {"by_client": by_client}

    return [made(event) if event["event"] == "evaluated" else event for event in small_run]


@pytest.fixture
def run_with_own(small_run: list[Event]) -> Callable[[float, dict[str, float]], list[Event]]:
    """The small run with what its clients' own adapters reach at the end."""

    def made(loss: float, by_client: dict[str, float]) -> list[Event]:
        own = {name: evaluated(2, loss, by_client)[name] for name in ("loss", "by_client")}
        return [
            event | {"own": own} if event["event"] == "evaluated" and event["round"] == 2 else event
            for event in small_run
        ]

    return made
