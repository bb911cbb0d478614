"""Each client's own adapter against training alone for as many steps, and what it costs the shared one.

    python simulations/defaults/own.py DIR --out simulations/defaults/results-own.jsonl

DIR is where `corpora.py` wrote. The defaults on every choosing corpus, with the tiny base, float32 and the settings of
`grid.py --quick`: once with personalized adapters and the local-only baseline, once without either. About 6 s per run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

from corpora import CORPORA
from grid import COMMON, QUICK
from one_run import append, losses_of, rows_of, run_once, settings_of

from plait.rounds.run_view import RunView
from plait.simulation.loaded import Loaded


def row_of(corpus: str, view: RunView, without: RunView) -> dict[str, object]:
    """What the two runs of a corpus gained, in nats: a client by its own adapter and alone; all by the shared one."""
    base, own, alone = view.base_evaluation, view.own_evaluation, view.references["local"].by_client
    if not (base and own):
        raise SystemExit(f"{corpus}: no evaluation of own adapters")

    def gained(after: Mapping[str, float]) -> dict[str, float]:
        return {name: round(score.loss - after[name], 4) for name, score in base.by_client.items()}

    return {
        "corpus": corpus,
        "own": gained({name: score.loss for name, score in own.by_client.items()}),
        "alone": gained(alone),
        "shared": losses_of(view),
        "shared_without": losses_of(without),
    }


def table(rows: Iterable[Mapping[str, object]]) -> str:
    """The rows as Markdown; of own adapters and training alone the median over clients."""
    titles = ("text", "own share", "seed", "shared without own ones", "shared", "cost", "own", "alone", "own no worse")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        own, alone, shared, without = (row[key] for key in ("own", "alone", "shared", "shared_without"))
        if not (isinstance(own, dict) and isinstance(alone, dict)):
            raise TypeError(f"gains of '{row['corpus']}' are no tables by client")
        gain, most = (losses[0] - losses[-1] for losses in (shared, without) if isinstance(losses, list))
        ahead = sum(own[name] >= alone[name] for name in own)
        costs = f"{row['own_share']} | {row['seed']} | {most:.3f} | {gain:.3f} | {(most - gain) / most:.1%}"
        medians = f"{median(own.values()):.3f} | {median(alone.values()):.3f}"
        lines.append(f"| `{row['corpus']}` | {costs} | {medians} | {ahead} of {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--own-share", type=float, default=0, help="another one than the default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpora", nargs="+", help="only these")
    arguments = parser.parse_args()
    share = arguments.own_share or "auto"
    done = {(row["corpus"], row["own_share"], row["seed"]) for row in rows_of(arguments.out)}
    loaded = Loaded()
    for corpus in (name for name, about in CORPORA.items() if about.half == "choosing"):
        if (corpus, share, arguments.seed) in done or (arguments.corpora and corpus not in arguments.corpora):
            continue
        settings = {**settings_of(corpus, arguments.directory, held_out=16), **COMMON, **QUICK}
        settings |= {"base": "tiny", "wire": "fp32", "seed": arguments.seed}
        views = (
            run_once({**settings, **more}, loaded)
            for more in ({"reference": "local", "own_share": share}, {"own_share": 0})
        )
        append(arguments.out, {"own_share": share, "seed": arguments.seed, **row_of(corpus, *views)})
    print(table(rows_of(arguments.out)))


if __name__ == "__main__":
    main()
