"""The defaults against a grid of settings, on the corpora of one half: held-out loss after every round of every cell.

    python simulations/defaults/grid.py DIR --half judging --out simulations/defaults/results-judging.jsonl
    python simulations/defaults/grid.py --table simulations/defaults/results-judging.jsonl

DIR is where `corpora.py` wrote. Every cell is a run of eight natural clients (fewer where a corpus has
fewer), five rounds of four steps of 4 x 128 tokens. The first cells are the defaults, at each wire; then plain FedAvg
with the pooled baseline, at each learning rate; a learning rate that is too high; lower ranks and Fed-SB, which
send less; then the grid. Each cell runs on all corpora before the next, so that an unfinished table compares like with
like. A finished cell stands in the results and is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from corpora import CORPORA
from loop import run_once
from one_run import append, losses_of, rows_of, settings_of

from plait.report.summary import summarise
from plait.simulation.loaded import Loaded

RATES = (3e-3, 1e-3, 1e-2, 3e-4)
STEPS: Mapping[str, Mapping[str, object]] = {
    "1": {"server_optimizer": "none"},
    "1.5": {"server_optimizer": "sgd:lr=1.5"},
}
COMMON = {"rounds": 5, "local_steps": 4, "eval_every": 1, "keep_updates": False}
GRID = {"personalize": 0, "select": "last"}
PLAIN = {**GRID, "server_optimizer": "none", "weighting": "examples", "bits": "fp32"}
# Ten thousand times fewer bytes than full-model FedAvg.
FED_SB = {"rule": "fedsb", "method": "lora_xs", "rank": 32, "learning_rate": 3e-3, "personalize": 0}
# A part of the size, to rank many cells.
QUICK = {"clients": 4, "seq_len": 64, "threads": 1}


def cells(wires: tuple[str, ...], rates: tuple[float, ...]) -> Iterator[dict[str, object]]:
    """The cells, what is most likely to be looked at first."""
    for wire in wires:
        yield {"cell": f"defaults, wire {wire}", "bits": wire}
    for rate in rates:
        yield {"cell": f"plain FedAvg {rate:g}", "learning_rate": rate, "reference": "central", **PLAIN}
    yield {"cell": "a learning rate of 0.03", "learning_rate": 3e-2}
    for rank in (4, 2):
        yield {"cell": f"rank {rank}, wire 1", "rank": rank, "bits": "1"}
    yield {"cell": "Fed-SB, rank 32, wire 1.9", "bits": "1.9", **FED_SB}
    yield {"cell": "found step searched", "bits": wires[0], "server_optimizer": "line_search", **GRID}
    for rate, (step, optimizer) in product((0, *rates), STEPS.items()):
        named = f"{rate:g}" if rate else "found"
        settings = {"learning_rate": rate, **optimizer}
        yield {"cell": f"{named} step {step}", "bits": wires[0], **settings, **GRID}


def run(settings: Mapping[str, object], loaded: Loaded) -> dict[str, object]:
    """Losses by round (round 0 is the base) of one cell on one corpus, and how long it took."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        view = run_once(settings, Path(scratch) / "run", loaded)
    summary, pooled = summarise(view), view.references.get("central")
    return {
        "losses": losses_of(view),
        "pooled": pooled and pooled.held_out_loss,
        "own": summary["own_held_out_loss"],
        "learning_rate": summary["learning_rate"],
        "taken_back": summary["steps_taken_back"],
        "uplink_bytes": summary["uplink_bytes"],
        "cpu_s": round(time.process_time() - started),
    }


def table(path: Path) -> str:
    """The results as a Markdown table: nats gained by each cell on each corpus, mean over seeds; the best is bold."""
    gains: dict[str, dict[str, list[float]]] = {}
    names: list[str] = []
    for row in rows_of(path):
        if row["corpus"] not in names:
            names.append(row["corpus"])
        first, *_, last = row["losses"]
        gains.setdefault(row["cell"], {}).setdefault(row["corpus"], []).append(first - last)
        if row["pooled"] is not None:
            pooled = gains.setdefault(row["cell"].replace("plain FedAvg", "pooled"), {})
            pooled.setdefault(row["corpus"], []).append(first - row["pooled"])
    means = {cell: {name: sum(each) / len(each) for name, each in found.items()} for cell, found in gains.items()}
    best = {
        name: max(found[name] for cell, found in means.items() if name in found and not cell.startswith("pooled"))
        for name in names
    }
    lines = [f"| cell | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for cell, found in means.items():
        texts = ["" if name not in found else f"{found[name]:.3f}" for name in names]
        marked = [
            f"**{text}**" if found.get(name) == best[name] else text for name, text in zip(names, texts, strict=True)
        ]
        lines.append(f"| {cell} | {' | '.join(marked)} |")
    return "\n".join(lines)


def _value(text: str) -> object:
    """What a setting is given as: a number where the text is one."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    """Run what is missing of the cells, or show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--half", choices=("choosing", "judging", "choosing-classes"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="show these results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--wires", nargs="+", default=["1", "fp32"])
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates of the grid")
    parser.add_argument("--corpora", nargs="+", help="only these")
    parser.add_argument("--cells", nargs="+", help="only cells whose name begins with one of these")
    parser.add_argument("--base", default="", help="another base for all texts")
    parser.add_argument("--quick", action="store_true", help="4 clients, 4 x 64 tokens, one thread")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all cells, and their name"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    if not (arguments.directory and arguments.half and arguments.out):
        parser.error("DIR, --half and --out are needed")
    done = {(row["corpus"], row["cell"], row["seed"]) for row in rows_of(arguments.out)}
    names = [name for name, about in CORPORA.items() if about.half == arguments.half]
    wanted = [
        cell
        for cell in cells(tuple(arguments.wires), tuple(arguments.rates))
        if not arguments.cells or str(cell["cell"]).startswith(tuple(arguments.cells))
    ]
    if arguments.set:
        named = ", ".join(arguments.set)
        given = {key: _value(text) for key, _, text in (each.partition("=") for each in arguments.set)}
        wanted = [{**cell, "cell": f"{named}: {cell['cell']}", **given} for cell in wanted]
    loaded = Loaded()
    for seed, cell, corpus in product(arguments.seeds, wanted, names):
        if (corpus, cell["cell"], seed) in done or (arguments.corpora and corpus not in arguments.corpora):
            continue
        settings = {
            **settings_of(corpus, arguments.directory),
            **COMMON,
            "seed": seed,
            **(QUICK if arguments.quick else {}),
            **({"base": arguments.base} if arguments.base else {}),
            **{key: value for key, value in cell.items() if key != "cell"},
        }
        found = run(settings, loaded)
        append(arguments.out, {"corpus": corpus, "cell": cell["cell"], "seed": seed, **found})


if __name__ == "__main__":
    main()
