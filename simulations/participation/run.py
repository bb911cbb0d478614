"""What a run costs and gains where clients come and go, beside the same run whose shadow is exact for everybody.

    python simulations/participation/run.py --rows few --seeds 0          # one line of JSON for each run
    python simulations/participation/run.py --quick                       # every row, small
    python simulations/participation/run.py --table results.jsonl         # the table of the lines

`exact` sends every client the server's master in float32, at no cost in the table; updates keep the wire's bit. Bytes
are those of the run's ledger: all tasks and answers of training, headers and settings included. One message is a mean
update.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean

import plait
from plait.adapters import subtract
from plait.compress.downlink import take_step
from plait.ledger.events import Broadcast, Evaluated, RunStarted, UpdateReceived
from plait.ledger.ledger import read_events
from plait.rounds import fold as aggregator
from plait.rounds.run_state import Track
from plait.wire.codecs.plain import Fp32
from plait.wire.encoding import encode_delta

PIECES, CHARACTERS = 10, 800
"""Of each client's text."""
FLEET = Path(__file__).with_name("fleet.toml")

ROWS: dict[str, dict[str, object]] = {
    "smollm2": {"base": "smollm2-135m", "clients": 64, "clients_per_round": 8, "rounds": 24, "seq_len": 64},
    "few": {"base": "tiny", "clients": 64, "clients_per_round": 8, "rounds": 24},
    "thousand": {"base": "tiny", "clients": 1000, "clients_per_round": 10, "rounds": 300},
    "once": {"base": "tiny", "clients": 500, "clients_per_round": 10, "rounds": 50},
    "async": {
        "base": "tiny",
        "clients": 40,
        "clients_per_round": 20,
        "rounds": 40,
        "rounds_mode": "async:5",
        "fleet": FLEET,
    },
    "all": {"base": "tiny", "clients": 8, "clients_per_round": 8, "rounds": 12},
}
QUICK = {"smollm2": (12, 3, 6), "few": (24, 4, 6), "thousand": (60, 3, 20), "once": (40, 4, 10), "async": (12, 6, 8)}


def exact(state, ranks, base_fingerprint, *, codec, new_factors, downlink, missed):  # noqa: ARG001
    """In place of `follow`: shadows are what the master says, and cost nothing."""
    tracks, encodings = [], []
    for number, track in enumerate(state.tracks):
        step = encode_delta(subtract(ranks.resized(state.adapter, number), track.shadow), Fp32())
        tracks.append(Track(take_step(track.shadow, step.delta, step.codec.name)))
        encodings.append(step.encoding)
    return replace(state, tracks=tuple(tracks)), encodings[0]


def pieces(count: int) -> list[dict[str, str]]:
    """Pieces of the standard library's modules, evenly spread over it."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py"))
    texts = (path.read_text(errors="replace") for path in modules if "site-packages" not in path.parts)
    cut = [text[at : at + CHARACTERS] for text in texts for at in range(0, len(text) - CHARACTERS, CHARACTERS)]
    return [{"text": cut[number * len(cut) // count]} for number in range(count)]


def run(row: str, *, is_exact: bool, seed: int, quick: bool, local_steps: int) -> dict[str, object]:
    """One run, and what its ledger says."""
    settings = {"local_steps": local_steps, "partition": "iid", "seed": seed} | ROWS[row]
    if quick and row in QUICK:
        settings |= dict(zip(("clients", "clients_per_round", "rounds"), QUICK[row], strict=True))
        settings |= {"rounds_mode": "async:3"} if row == "async" else {}
    evaluated = {"eval_every": settings["rounds"], "eval_clients": min(32, int(str(settings["clients"])))}
    followed = aggregator.follow
    if is_exact:
        aggregator.follow = exact
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            records = pieces(PIECES * int(str(settings["clients"])))
            plait.simulate(records, out=out, quiet=True, **{**settings, **evaluated})
            found = figures(read_events(out / "ledger.jsonl"))
    finally:
        aggregator.follow = followed
    return {"row": row, "exact": is_exact, "seed": seed, "quick": quick, "local_steps": local_steps, **found}


def figures(events) -> dict[str, object]:
    """Bytes of training by direction, first downloads, and losses."""
    parameters, up, down, evaluating, losses = 0, [], [], 0, []
    first: dict[str, float] = defaultdict(float)
    for event in events:
        match event:
            case RunStarted():
                parameters = event.adapter.trainable_parameters
            case Broadcast(purpose="train"):
                down.append(event.downlink_bytes)
                if event.round > 1:
                    first.setdefault(event.client, event.bits_per_parameter)
            case Broadcast():
                evaluating += event.downlink_bytes
            case UpdateReceived():
                up.append(event.uplink_bytes)
            case Evaluated():
                losses.append(event.loss)
            case _:
                pass
    return {
        "parameters": parameters,
        "client_rounds": len(up),
        "messages": round((sum(up) + sum(down)) / len(up) / mean(up), 4),
        "up_bits": round(8 * mean(up) / parameters, 4),
        "down_bits": round(8 * sum(down) / len(up) / parameters, 4),
        "first_download_bits": round(max(first.values(), default=0.0), 4),
        "below_fp32": round(8 * parameters * len(up) / (sum(up) + sum(down)), 2),
        "evaluating_down_bytes": evaluating,
        "losses": losses,
    }


def table(path: Path) -> str:
    """Markdown of the lines in `path`: each row with keyframes or steps, and its gain beside the exact run's."""
    found: dict[tuple[str, bool], dict[int, dict]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        found[entry["row"], entry["quick"], entry["exact"]][entry["seed"]] = entry
    lines = [
        "| Row | Seeds | Messages | First download, bits | Below float32 | Gain | Exact | Kept |",
        "|" + "---|" * 8,
    ]
    for (row, quick, is_exact), ours in sorted(found.items()):
        if is_exact:
            continue
        theirs = found.get((row, quick, True), {})
        seeds = sorted(ours.keys() & theirs.keys()) or sorted(ours)
        mine = [entry["losses"][0] - entry["losses"][-1] for seed, entry in ours.items() if seed in seeds]
        of_exact = [entry["losses"][0] - entry["losses"][-1] for seed, entry in theirs.items() if seed in seeds]
        kept = f"{sum(mine) / sum(of_exact):.1%}" if of_exact else ""
        entry = ours[seeds[0]]
        name = f"{row} (quick)" if quick else row
        bytes_of = " | ".join(str(entry[key]) for key in ("messages", "first_download_bits", "below_fp32"))
        beside = f"{mean(of_exact):.4f}" if of_exact else ""
        lines.append(f"| {name} | {len(seeds)} | {bytes_of} | {mean(mine):.4f} | {beside} | {kept} |")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments, run, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--local-steps", type=int, default=4)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["exact", "ours"])
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    if given.table:
        print(table(given.table))
        return
    for row in given.rows.split(","):
        for seed in map(int, given.seeds.split(",")):
            for is_exact in (False, True):
                if given.only in (None, "exact" if is_exact else "ours"):
                    done = run(row, is_exact=is_exact, seed=seed, quick=given.quick, local_steps=given.local_steps)
                    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
