"""Fewer bits up than down: how much each link's rate costs, on the tiny base and three choosing texts.

    python simulations/defaults/links.py DIR --out simulations/defaults/results-links.jsonl

DIR is where `corpora.py` wrote. plait has one rate for both links; here the broadcasts have one of their own. Natural
clients (six or eight), five rounds of 4 steps of 4 x 64 tokens at the learning rates that clients find, no personalized
adapters, one thread; 20 s of one core per run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from corpora import CORPORA
from one_run import CLIENTS

import plait
from plait.rounds import aggregator
from plait.wire.codecs import Rate

TEXTS = ("austen", "quotes", "stdlib")
LINKS = (
    ("fp32", None),
    *((up, None) for up in ("1", "0.5", "0.25")),
    *((up, down) for up in ("0.5", "0.25") for down in (1, 4)),
    ("0.25", 2),
)


def run(directory: Path, text: str, up: str, down: int | None, seed: int) -> dict[str, object]:
    """Losses by round (round 0 is the base) and bytes on both links."""
    follow = aggregator.follow if down is None else _at(Rate(float(down)))
    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(aggregator, "follow", follow):
        finished = plait.simulate(
            str(directory / f"{text}.jsonl"),
            partition=f"natural:{CORPORA[text].column}",
            base="tiny",
            clients=CLIENTS.get(text, 8),
            rounds=5,
            seq_len=64,
            wire=up,
            own_share=0,
            max_held_out_sequences=16,
            threads=1,
            seed=seed,
            out=str(Path(scratch) / "run"),
        )
        summary = finished.summary
    return {
        "text": text,
        "up": up,
        "down": down or up,
        "seed": seed,
        "losses": [round(loss, 4) for loss in summary["held_out_loss_by_round"]],
        "uplink_bytes": summary["uplink_bytes"],
        "downlink_bytes": summary["downlink_bytes"],
    }


def _at(codec: Rate) -> Callable[..., object]:
    """`follow`, which encodes broadcasts, at a rate of its own."""
    follow = aggregator.follow
    return lambda *arguments, **keywords: follow(*arguments, **{**keywords, "codec": codec})


def main() -> None:
    """Run what is missing, and show what each pair keeps of the float32 gain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    done = {(row["text"], row["up"], row["down"], row["seed"]) for row in rows}
    for text in TEXTS:
        for up, down in LINKS:
            if (text, up, down or up, arguments.seed) in done:
                continue
            row = run(arguments.directory, text, up, down, arguments.seed)
            rows.append(row)
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    gains = {(row["text"], row["up"], row["down"]): row["losses"][0] - row["losses"][-1] for row in rows}
    for (text, up, down), gain in gains.items():
        print(f"{text} {up} up, {down} down: {gain:.3f} nats, {gain / gains[text, 'fp32', 'fp32']:.1%} of float32's")


if __name__ == "__main__":
    main()
