"""The events of a ledger with an intact chain, as input of the report, whatever their content."""

import json

from fuzz_ledger import chained
from harness import instrumented, main

with instrumented():
    from plait.errors import PeerError
    from plait.ledger.events import parse_event
    from plait.ledger.run_view import RunView
    from plait.report.html import _ALTERNATIVE_TEXTS, render_html
    from plait.report.status import status_tables
    from plait.report.summary import summarise


def parse(data: bytes) -> None:
    try:
        events = [json.loads(line) for line in chained(data).split(b"\n")[:-1]]
    except (ValueError, RecursionError):
        return
    for event in events:
        status_tables(event)
    try:
        view = RunView.of(map(parse_event, events))
    except PeerError:
        return
    json.dumps(summarise(view), allow_nan=False)
    page = render_html(view, {key: dict[str, str]() for key in _ALTERNATIVE_TEXTS}, "")
    if "<script>" in page or "\x1b" in page:
        raise ValueError("something got into the page")


def seeds() -> list[bytes]:
    described = {"client": "ada", "train_examples": 3, "train_tokens": 30, "held_out_examples": 4}
    described |= {"held_out_tokens": 40, "rank": 2, "histogram": {"<script>": 1}}
    update = {"round": 1, "client": "ada", "uplink_bytes": 9, "payload_bytes": 5, "envelope_bytes": 8, "codec": "fp32"}
    update |= {"bits_per_parameter": 32.0, "distortion": 0.0, "codec_s": 0.1, "examples": 3, "tokens": 30}
    update |= {"train_loss": 1.5, "train_s": 0.2, "digest": "ab" * 32, "norms": {"A": 0.1}}
    said = {"rounds": 1, "clients": 1, "seed": 0, "rule": "fedavg", "bits": "fp32", "base": "tiny"}
    base = {"name": "tiny", "fingerprint": "ab" * 32, "parameters": 99, "task": "causal-lm"}
    adapter = {"method": "lora", "rank": 2, "alpha": 4, "target_modules": "all-linear", "trainable_parameters": 12}
    begun = {"run": "ab" * 16, "name": "<b>r</b>", "seed": 0, "config": said, "base": base, "adapter": adapter}
    begun |= {"full_model_bytes": 396, "versions": {"plait": "0"}, "machine": {"cpu": "x"}}
    refused = {"round": 1, "client": "bob", "reason": "late", "detail": "", "uplink_bytes": 0}
    finished = {"round": 1, "rule": "fedavg", "received": 1, "refused": 0, "update_norm": 0.5, "wall_s": 2.0}
    sure = {"loss_margin": 0.5, "change": -0.25, "change_margin": 0.125, "accuracy_interval": [0.5, 0.75]}
    scores = {"ada": {"loss": 2.5, "tokens": 40, "sequences": 4, **sure}}
    events = [
        {"event": "run_started", "time": 1.0, **begun},
        {"event": "clients_described", "time": 1.5, "clients": [described]},
        {"event": "evaluated", "time": 2.0, "round": 0, "loss": 2.5, "by_client": scores, **sure},
        {"event": "round_started", "time": 3.0, "round": 1, "cohort": ["ada"]},
        {"event": "broadcast", "time": 3.1, "round": 1, "client": "ada", "purpose": "train", "downlink_bytes": 7},
        {"event": "update_received", "time": 4.0, **update},
        {"event": "update_refused", "time": 4.1, **refused},
        {"event": "round_finished", "time": 5.0, "adapter": "ab" * 32, **finished},
        {"event": "run_finished", "time": 6.0, "rounds": 1, "wall_s": 5.0, "peak_rss_bytes": 9, "adapter": "ab" * 32},
    ]
    lines = [json.dumps(event).encode() for event in events]
    return [b"\n".join(lines), *lines]


if __name__ == "__main__":
    main(parse, seeds())
