"""What the defaults gain where few of many clients take part, against a grid of rates and server optimizers.

    python simulations/participation/learning.py DIR --half choosing --out FILE    # DIR: of defaults/corpora.py
    python simulations/participation/learning.py --table FILE

64 clients, of which `--share` take part in each round. A corpus with fewer natural clients has each of them split into
consecutive parts, larger ones into more. A finished cell stands in the results and is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "defaults"))
from corpora import CORPORA
from one_run import append, losses_of, rows_of, run_once

from plait.rounds import error_feedback
from plait.simulation.loaded import Loaded

CLIENTS = 64
LEAST = 1200
"""Characters of a client."""
COMMON: dict[str, object] = {
    "base": "tiny", "clients": CLIENTS, "rounds": 24, "local_steps": 4, "seq_len": 64, "threads": 1, "eval_every": 4,
    "eval_clients": 32, "max_held_out_sequences": 8, "partition": "natural:part", "keep_updates": False,
}  # fmt: skip
RATES = (1e-2, 3e-3, 1e-3)
OPTIMIZERS = ("none", "fedadam:lr=0.003", "sgd:lr=0.3,momentum=0.9", "fedexp")
PLAIN: dict[str, object] = {"keep": "last", "own_share": 0}


def cells(rates: tuple[float, ...]) -> Iterator[dict[str, object]]:
    """The defaults, then the grid."""
    yield {"cell": "defaults"}
    for optimizer, rate in itertools.product(OPTIMIZERS, (0.0, *rates)):
        named = f"{rate:g}" if rate else "found"
        yield {"cell": f"{optimizer} {named}", "server_optimizer": optimizer, "learning_rate": rate, **PLAIN}


def split(corpus: str, directory: Path, folder: Path) -> str:
    """A file of the corpus whose column `part` names 64 clients."""
    whose: dict[str, list[str]] = defaultdict(list)
    with (directory / f"{corpus}.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            text = row.get("text") or "\n".join(str(row.get(key, "")) for key in ("prompt", "completion"))
            if messages := row.get("messages"):
                text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
            whose[str(row[CORPORA[corpus].column])].append(text)
    texts = {name: "\n\n".join(found) for name, found in whose.items()}
    texts = dict(sorted(texts.items(), key=lambda pair: -len(pair[1]))[:CLIENTS])
    texts = {name: text for name, text in texts.items() if len(text) >= LEAST}
    parts = dict.fromkeys(texts, 1)
    while sum(parts.values()) < CLIENTS:
        parts[max(texts, key=lambda name: len(texts[name]) / parts[name])] += 1
    out = folder / f"{corpus}.jsonl"
    with out.open("w", encoding="utf-8") as file:
        for name, text in texts.items():
            size = len(text) // parts[name]
            for part in range(parts[name]):
                piece = text[part * size : (part + 1) * size][:40_000]
                for at in range(0, len(piece), 2_000):
                    file.write(json.dumps({"text": piece[at : at + 2_000], "part": f"{name} {part}"}) + "\n")
    return str(out)


def keep_remainder(share: float) -> None:
    """Have a client that missed a round go on with this share of its remainder, instead of none."""

    def aged(kept, job):
        if kept.round + 1 >= job.settings.round:
            return kept
        return error_feedback.Kept(kept.round, {name: share * array for name, array in kept.arrays.items()})

    error_feedback._recent = aged


def table(path: Path) -> str:
    """Nats gained by each cell on each corpus, mean over seeds, and what the defaults reach of the best."""
    gains: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    rises: dict[str, float] = defaultdict(float)
    for row in rows_of(path):
        losses = row["losses"]
        gains[row["cell"]][row["corpus"]].append(losses[0] - losses[-1])
        if row["cell"] == "defaults":
            worst = max(now - before for before, now in itertools.pairwise(losses))
            rises[row["corpus"]] = max(rises[row["corpus"]], worst / (losses[0] - losses[-1]))
    names = list(dict.fromkeys(row["corpus"] for row in rows_of(path)))
    means = {cell: {name: sum(each) / len(each) for name, each in found.items()} for cell, found in gains.items()}
    lines = [f"| cell | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for cell, found in means.items():
        lines.append(f"| {cell} | {' | '.join(f'{found[name]:.4f}' if name in found else '' for name in names)} |")
    best = {name: max(found.get(name, 0) for found in means.values()) for name in names}
    for cell, found in means.items():
        shares = [found[name] / best[name] for name in names if name in found]
        lines.append(
            f"| {cell}: of the best, mean {sum(shares) / len(shares):.1%} | "
            + " | ".join(f"{found[name] / best[name]:.1%}" if name in found else "" for name in names)
            + " |"
        )
    lines.append(f"| defaults: largest rise, of the gain | {' | '.join(f'{rises[name]:.1%}' for name in names)} |")
    return "\n".join(lines)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    """Run what is missing of the cells, or show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--half", choices=("choosing", "judging"), default="choosing")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="show these results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--share", type=int, default=8, help="clients of a round")
    parser.add_argument("--corpora", nargs="+", help="only these")
    parser.add_argument("--cells", nargs="+", help="only cells whose name begins with one of these")
    parser.add_argument("--remainder", type=float, help="share of its remainder with which a client returns; none")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all cells")
    parser.add_argument("--name", default="", help="put before the cells' names")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    if arguments.remainder is not None:
        keep_remainder(arguments.remainder)
    done = {(row["corpus"], row["cell"], row["seed"]) for row in rows_of(arguments.out)}
    names = arguments.corpora or [
        name for name, about in CORPORA.items() if about.half == arguments.half and about.column != "label"
    ]
    given = {key: _value(text) for key, _, text in (each.partition("=") for each in arguments.set)}
    loaded = Loaded()
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: split(name, arguments.directory, Path(scratch)) for name in names}
        for seed, cell, corpus in itertools.product(arguments.seeds, cells(RATES), names):
            name = f"{arguments.name}{cell['cell']}"
            wanted = not arguments.cells or str(cell["cell"]).startswith(tuple(arguments.cells))
            if (corpus, name, seed) in done or not wanted:
                continue
            own = {key: value for key, value in cell.items() if key != "cell"}
            settings = {**COMMON, "data": files[corpus], "clients_per_round": arguments.share, "seed": seed, **own}
            view = run_once({**settings, **given}, loaded)
            found = {"losses": losses_of(view), "share": arguments.share, "set": given}
            append(arguments.out, {"corpus": corpus, "cell": name, "seed": seed, **found})


if __name__ == "__main__":
    main()
