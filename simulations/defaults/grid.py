"""A grid of settings on the corpora of one half: held-out loss after every round of every cell.

    python simulations/defaults/grid.py DIR --half choosing --out simulations/defaults/results-choosing.jsonl

DIR is where `corpora.py` wrote. Every cell is a `plait simulate` of eight natural clients (fewer where a corpus has
fewer), five rounds of four steps of 4 x 128 tokens. Cells come in the order of the grid, each on all corpora before the
next, so that an unfinished table compares like with like. A finished cell stands in the results and is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from corpora import CORPORA

CLIENTS = {"news": 5, "austen": 6}
RATES = (3e-3, 1e-3, 3e-4, 1e-2, 3e-2)
STEPS: Mapping[str, Mapping[str, object]] = {
    "1": {"server_optimizer": "none"},
    "1.5": {"server_optimizer": "sgd", "server_learning_rate": 1.5},
}
COMMON = {"rounds": 5, "local_steps": 4, "eval_every": 1, "own_share": 0, "keep_updates": False, "take_back": False}
# A part of the size, to rank many cells.
QUICK = {"rounds": 3, "clients": 4, "seq_len": 64, "wire": "fp32", "max_held_out_sequences": 4}


def cells() -> Iterator[dict[str, object]]:
    """The grid, what is most likely to be chosen first."""
    for moments, rate, (step, optimizer) in product(("carry", "fresh"), RATES, STEPS.items()):
        yield {"cell": f"{rate:g} step {step} {moments}", "learning_rate": rate, "moments": moments, **optimizer}


def run(corpus: str, directory: Path, settings: Mapping[str, object]) -> dict[str, object]:
    """One cell on one corpus.

    Args:
        corpus: its name.
        directory: where `corpora.py` wrote.
        settings: what differs from plait's defaults.

    Returns:
        Losses by round (round 0 is the base), and how long it took.
    """
    about = CORPORA[corpus]
    data = {
        "data": str(directory / f"{corpus}.jsonl"),
        "base": about.base,
        "partition": about.partition or f"natural:{about.column}",
        "clients": CLIENTS.get(corpus, 8),
    }
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        table = {**data, **settings}
        lines = (f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in table.items())
        config = Path(scratch) / "config.toml"
        config.write_text("\n".join(lines), encoding="utf-8")
        plait = Path(sys.executable).with_name("plait")
        command = [plait, "simulate", "--config", config, "--out", Path(scratch) / "run", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{corpus}: {done.stderr.strip()[-500:]}")
    summary = json.loads(done.stdout)
    return {
        "losses": summary["held_out_loss_by_round"],
        "uplink_bytes": summary["uplink_bytes"],
        "s": round(time.monotonic() - started),
    }


def main() -> None:
    """Run what is missing of the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--half", choices=("choosing", "judging"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wire", default="1")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--base", default="", help="another base for all texts")
    parser.add_argument("--quick", action="store_true", help="4 clients, 3 rounds of 4 x 64 tokens, float32 wire")
    parser.add_argument("--held-out", type=int, default=8, help="held-out sequences per client")
    arguments = parser.parse_args()
    done = set()
    if arguments.out.exists():
        rows = map(json.loads, arguments.out.read_text().splitlines())
        done = {(row["corpus"], row["cell"], row["seed"], row["wire"]) for row in rows}
    for cell in cells():
        for corpus in (name for name, about in CORPORA.items() if about.half == arguments.half):
            if (corpus, cell["cell"], arguments.seed, arguments.wire) in done:
                continue
            settings = {
                **COMMON,
                **{key: value for key, value in cell.items() if key != "cell"},
                "seed": arguments.seed,
                "wire": arguments.wire,
                "threads": arguments.threads,
                "max_held_out_sequences": arguments.held_out,
                **(QUICK if arguments.quick else {}),
                **({"base": arguments.base} if arguments.base else {}),
            }
            result = run(corpus, arguments.directory, settings)
            row = {"corpus": corpus, "cell": cell["cell"], "seed": arguments.seed, "wire": arguments.wire, **result}
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
