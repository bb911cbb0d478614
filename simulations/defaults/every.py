"""Every method and every rule at its defaults, against other learning rates: a sample of a grid.

    python simulations/defaults/every.py DIR --out simulations/defaults/results-every.jsonl
    python simulations/defaults/every.py --table simulations/defaults/results-every.jsonl

DIR is where `corpora.py` wrote. A place in the grid is a method, a rule, (1, 5, 20) rounds, (2, 8, 32) clients, (1, 4,
20) local steps and a rank of (4, 8, 32), with at most 160 client steps in all. Seed 0 samples them so that every method
and every rule has three places. Each is run at its defaults; with a constant learning rate, as the defaults were once;
and at a third and three times the rate that its clients found. The table names the places where the defaults end above
the base, or gain less than nine tenths of what the best of these gains. 4 x 64 tokens, float32, one thread; on the
tiny base a few seconds per run. `--again` runs the defaults of places that have rows anew, and keeps the other runs.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from one_run import append, losses_of, rows_of, run_once, settings_of

from plait.adapters.methods import METHODS
from plait.errors import ConfigError, PlaitError
from plait.flower.rule_table import ALL_RULES
from plait.report.summary import summarise
from plait.simulation.loaded import Loaded

TEXTS = ("quotes", "perl", "stdlib")  # the choosing corpora with 32 clients
AXES = {"rounds": (1, 5, 20), "clients": (2, 8, 32), "local_steps": (1, 4, 20), "rank": (4, 8, 32)}
LORA = ("lora", "dora", "rslora")
FOR_ALL = ("fedavg", "median", "geometric_median", "trimmed_mean")
MOST_CLIENT_STEPS = 160
COMMON = {
    "wire": "fp32",
    "seq_len": 64,
    "threads": 1,
    "eval_clients": 8,
    "keep_updates": False,
}
Runs = dict[str, list[float]]
FACTORS = (1 / 3, 3.0)
DEFAULT, CONSTANT = "1", "constant"


def places(seed: int = 0) -> Iterator[dict[str, object]]:
    """The sample: three places per method, then three per rule that those leave out."""
    draw = random.Random(seed)
    pairs = [
        (method, FOR_ALL[(3 * index + turn) % len(FOR_ALL)])
        for index, method in enumerate(name for name in METHODS if name not in (*LORA, "qlora"))
        for turn in range(3)
    ]
    pairs += [(LORA[turn], rule) for rule in ALL_RULES if rule not in (*FOR_ALL, "fedsb") for turn in range(3)]
    pairs += [("lora_xs", "fedsb")] * 3 + [(method, "fedavg") for method in LORA for _ in range(2)]
    for index, (method, rule) in enumerate(pairs):
        while True:
            place = {axis: draw.choice(values) for axis, values in AXES.items()}
            least = ALL_RULES[rule].least_clients
            if _client_steps(place) <= MOST_CLIENT_STEPS and place["clients"] >= least:
                break
        yield {"text": TEXTS[index % len(TEXTS)], "method": method, "rule": rule, **place}


def _client_steps(place: Mapping[str, object]) -> int:
    return math.prod(int(str(place[axis])) for axis in ("rounds", "clients", "local_steps"))


def gains_of(row: Mapping[str, object]) -> dict[str, float]:
    """Nats gained after the last round, by the factor of the learning rate; "1" are the defaults."""
    runs = row["runs"]
    if not isinstance(runs, dict):
        raise TypeError(f"runs are {runs!r}, expected a table")
    return {factor: losses[0] - losses[-1] for factor, losses in runs.items()}


def table(path: Path) -> str:
    """The places where the defaults fail, as Markdown, below a line that counts them."""
    # The last row of a place counts, and none whose defaults have not been run.
    rows = [row for row in {str(row["place"]): row for row in rows_of(path)}.values() if DEFAULT in gains_of(row)]
    lines: list[str] = []
    for row in rows:
        gains = gains_of(row)
        default, best = gains[DEFAULT], max(gains.values())
        if default < 0 or default < 0.9 * best:
            place = " | ".join(str(row[key]) for key in ("text", "method", "rule", *AXES))
            kept = f"{default / best:.0%}" if best > 0 else ""
            shown = (CONSTANT, "0.333", "3")
            others = " | ".join(f"{gains[factor]:.3f}" if factor in gains else "" for factor in shown)
            lines.append(f"| {place} | {row['learning_rate']:.2g} | {default:.3f} | {others} | {kept} |")
    worse = sum(gains_of(row)[DEFAULT] < 0 for row in rows)
    counted = f"{len(rows)} places: the defaults end above the base in {worse}, and more than a tenth behind in "
    head = (
        f"| text | method | rule | {' | '.join(AXES)} | found | gain | constant | a third | three times | of the best |"
    )
    return "\n".join([f"{counted}{len(lines) - worse} others.\n", head, "|---" * (len(AXES) + 9) + "|", *lines])


def main() -> None:
    """Run what is missing, or show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="show these results")
    parser.add_argument("--again", action="store_true", help="run the defaults of places that have rows anew")
    parser.add_argument(
        "--base", default="tiny", help="minilm-l6 has the texts as classes; what a base refuses is left out"
    )
    parser.add_argument("--only", nargs="+", default=[], help="only places of these methods or rules")
    parser.add_argument("--most-client-steps", type=int, default=MOST_CLIENT_STEPS, help="only places with no more")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    if not (arguments.directory and arguments.out):
        parser.error("DIR and --out are needed")
    done = {row["place"]: row for row in rows_of(arguments.out)}
    loaded = Loaded()
    # The first place of every method and rule, then the second, then the third; cheap ones before others.
    for number, place in sorted(enumerate(places()), key=lambda each: (each[0] % 3, _client_steps(each[1]))):
        is_named = not arguments.only or not {place["method"], place["rule"]}.isdisjoint(arguments.only)
        is_small = _client_steps(place) <= arguments.most_client_steps
        if (number in done) != arguments.again or not (is_named and is_small):
            continue
        axes = {key: value for key, value in place.items() if key != "text"}
        text = f"{place['text']}-classes" if arguments.base == "minilm-l6" else str(place["text"])
        settings = {**settings_of(text, arguments.directory, held_out=8), **COMMON, "base": arguments.base, **axes}
        try:
            if arguments.again:
                row = dict(done[number])
                runs = cast("Runs", row["runs"])
                if CONSTANT not in runs:
                    runs = {CONSTANT: runs[DEFAULT], **runs}
                runs = {**runs, DEFAULT: losses_of(run_once(settings, loaded))}
                append(arguments.out, {**row, "runs": runs})
            else:
                runs, rate = _all_runs(settings, loaded)
                append(arguments.out, {"place": number, **place, "learning_rate": rate, "runs": runs})
        except ConfigError as error:  # such as prefix tuning of an encoder
            print(f"left out: {place}: {error}", flush=True)
        except PlaitError as error:
            raise SystemExit(f"{place}: {error}") from error


def _all_runs(settings: Mapping[str, object], loaded: Loaded) -> tuple[Runs, float]:
    """Losses at the defaults and at other rates, and the rate that the clients' first steps found."""
    view = run_once({**settings, "lr_schedule": "constant"}, loaded)
    rate = float(str(summarise(view)["learning_rate"]))
    runs = {CONSTANT: losses_of(view), DEFAULT: losses_of(run_once(settings, loaded))}
    for factor in FACTORS:
        runs[f"{factor:.3g}"] = losses_of(run_once({**settings, "learning_rate": rate * factor}, loaded))
    return runs, rate


if __name__ == "__main__":
    main()
