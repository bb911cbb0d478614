"""What the three scripts share: a loop that is not plait's, as it is and with a few lines changed, on the same work.

The edits of a loop are data: in which file, which lines become which. They are applied to a copy, and counted. Works,
sequences, the loss and the watch over processes are those of simulations/field.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
FIELD = HERE.parent / "field"
# The scripts here bear the names of libraries.
sys.path[:] = [str(CHECKOUT), str(FIELD), *(path for path in sys.path if path != str(HERE))]

from run import CELL, Entrant, Watch, measured  # noqa: E402
from works import FEDERATIONS, QUICK, configuration  # noqa: E402

Row = dict[str, Any]
Edits = Mapping[str, Sequence[tuple[str, str]]]
"""By file: what stands there, and what takes its place."""
EVERYBODY, A_FOURTH = "everybody", "a fourth"
WORKS = {
    EVERYBODY: replace(QUICK, rounds=10, held_out=16),
    A_FOURTH: replace(QUICK, clients=16, per_round=4, rounds=24, steps=4, held_out=8),
    "smollm2": FEDERATIONS["documents-short"],
}
RATES = {EVERYBODY: 0.01, A_FOURTH: 0.003, "smollm2": 0.003}
"""The best of 0.003 and 0.01 for the unchanged loop with PEFT."""


def edited(folder: Path, edits: Edits) -> int:
    """Apply edits to a copy of a loop; how many lines a user would change or add."""
    changed = 0
    for name, pairs in edits.items():
        file = folder / name
        before = after = file.read_text()
        for old, new in pairs:
            if after.count(old) != 1:
                raise SystemExit(f"{name} has {old!r} {after.count(old)} times, expected once: the loop has changed")
            after = after.replace(old, new)
        file.write_text(after)
        lines = difflib.ndiff(before.splitlines(), after.splitlines())
        changed += sum(line.startswith("+ ") for line in lines)
    return changed


def rows(loop: str, edits: Edits, python: Path, *, beside: Path | None = None) -> Iterator[Row]:
    """A row for each work and seed of the command line: an entrant of the field, unchanged and changed.

    Args:
        beside: files that the changed loop has besides.
    """
    options = arguments(loop, list(WORKS))
    for name in options.works.split(","):
        for seed in map(int, options.seeds.split(",")):
            with tempfile.TemporaryDirectory(prefix="loops-") as work:
                told = configuration(WORKS[name], seed, Path.home() / ".cache" / "plait-field", Path(work))
                told |= {"learning_rate": RATES[name], "variant": {}}
                folder = Path(work) / loop
                shutil.copytree(FIELD / loop, folder)
                (folder / "plait").symlink_to(CHECKOUT / "plait")
                if beside:
                    shutil.copytree(beside, folder, dirs_exist_ok=True)
                lines_changed = edited(folder, edits)
                # Side by side: the machine may be busy with other work.
                plain, ours = (
                    measured({}, Entrant.of(each), told, python) for each in (FIELD / loop, folder)
                )  # fmt: skip
                yield row({"loop": loop, "work": name, "seed": seed}, plain, ours, lines_changed)


def row(key: Row, plain: Row, ours: Row, lines_changed: int) -> Row:
    """What the field saw of both, in one row."""
    for each in (plain, ours):
        if "failed" in each:
            raise SystemExit(each["failed"])
    mean = [list(map(_mean, (each["losses"]["base"], list(each["losses"].values())[-1]))) for each in (plain, ours)]
    return compared(
        key, base=mean[0][0], losses=(mean[1][1], mean[0][1]),
        totals=[sum(part["bytes"] for part in each["bytes"]) for each in (ours, plain)],
        cpu_s=(ours["cpu_s"], plain["cpu_s"]), lines_changed=lines_changed,
    )  # fmt: skip


def compared(
    key: Row, *, base: float, losses: Sequence[float], totals: Sequence[int], cpu_s: Sequence[float], lines_changed: int
) -> Row:
    """A row; of each pair the changed loop comes first."""
    return key | {
        "bytes": totals[0], "bytes_unchanged": totals[1], "fewer": round(totals[1] / totals[0], 1),
        "loss_base": round(base, 4), "loss": round(losses[0], 4), "loss_unchanged": round(losses[1], 4),
        "gain": round((base - losses[0]) / (base - losses[1]), 3),
        "cpu_s": round(cpu_s[0], 1), "cpu_s_unchanged": round(cpu_s[1], 1), "lines_changed": lines_changed,
    }  # fmt: skip


def arguments(loop: str, works: Sequence[str], **more: Any) -> argparse.Namespace:
    """The command line of a script."""
    parser = argparse.ArgumentParser(description=f"The loop of {loop}, unchanged and with plait.compress.")
    parser.add_argument("--json", action="store_true", help="a row a line, instead of a table")
    parser.add_argument("--works", default=",".join(works[:2]), help=f"of {', '.join(works)}")
    parser.add_argument("--seeds", default="0,1,2")
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()


def report(loop: str, found: Callable[[], Iterator[Row]]) -> None:
    """Print rows as they come, and keep those that are new beside the script."""
    kept = HERE / f"results-{loop}.jsonl"
    for each in found():
        text = json.dumps(each | {"date": time.strftime("%Y-%m-%d", time.gmtime())})
        print(
            text if "--json" in sys.argv else "  ".join(f"{name} {value}" for name, value in each.items()), flush=True
        )
        with kept.open("a") as file:
            file.write(text + "\n")


def _mean(by_client: Mapping[str, float]) -> float:
    return sum(by_client.values()) / len(by_client)


__all__ = ["CELL", "Watch"]
