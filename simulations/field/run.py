"""The field: every entrant on the same work, each in an environment of its own.

    python simulations/field/run.py --quick                              # all cells; finished ones are not run again
    python simulations/field/run.py --work documents --form short        # half the rounds of half the tokens
    python simulations/field/run.py --work people --seeds 0,1,2 --only "plait default,peft best"

An entrant is a folder here with `run.py`, `requirements.txt` and `entrant.json`. Environments and text are kept in the
cache. Every finished cell is a line of results-NAME.jsonl, which check.py prints as a table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from works import FEDERATIONS, WORKS, configuration

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
CELL = "FIELD_CELL"
"""In the environment of every process of a cell, wherever in the tree of processes it is."""
sys.path.append(str(HERE / "given"))  # `work`, for the judge
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
Row = dict[str, Any]


@dataclass(frozen=True)
class Entrant:
    """A folder that takes part.

    Attributes:
        variants: settings by name; "" is its own way with nothing set.
        fixes: what its own way fixes differently from the others'.
        chosen_by: schedule, `constant` or `cosine`, with which its best rate is chosen; empty without such a row.
        is_ruler: whether it is no federation but a ruler, at the best rate alone.
    """

    folder: Path
    variants: Mapping[str, Mapping[str, object]]
    fixes: str
    chosen_by: str = ""
    is_ruler: bool = False

    @classmethod
    def of(cls, folder: Path) -> Entrant:
        """Read a folder."""
        return cls(folder, **json.loads((folder / "entrant.json").read_text()))

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    def environment(self, cache: Path) -> Path:
        """Its Python; made once per list of requirements, and plait's once per state of the checkout."""
        wanted = self.folder / "requirements.txt"
        named = wanted.read_bytes()
        if b"." in named.split():  # this checkout as it is now
            named += b"".join(path.read_bytes() for path in sorted((CHECKOUT / "plait").rglob("*.py")))
        made = cache / hashlib.sha256(named).hexdigest()[:12]
        if not (made / ".installed").exists():
            print(f"installing {self.name} in {made}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", made], check=True)
            subprocess.run([made / "bin/python", "-m", "pip", "install", "-q", "-r", wanted], check=True, cwd=CHECKOUT)
            (made / ".installed").touch()
        return made / "bin" / "python"


def entrants(root: Path = HERE) -> list[Entrant]:
    """All folders that take part."""
    return [Entrant.of(found.parent) for found in sorted(root.glob("*/entrant.json"))]


def cells(found: Sequence[Entrant]) -> dict[str, tuple[Entrant, str, str]]:
    """Entrant, variant and setting of the rate (`default` or `best`) by title."""
    return {
        " ".join(filter(None, (entrant.name, variant, setting))): (entrant, variant, setting)
        for entrant in found
        for variant in entrant.variants
        for setting in (("default", "best") if entrant.chosen_by else ("default",))
        if not (entrant.is_ruler and setting == "default")
    }


def measured(key: Row, entrant: Entrant, told: Row, python: Path) -> Row:
    """One run, and what was seen of it from outside."""
    folder = Path(tempfile.mkdtemp(prefix="field-"))
    (folder / "configuration.json").write_text(json.dumps(told))
    environment = os.environ | {CELL: str(folder), "PYTHONPATH": str(HERE / "given"), "HF_HUB_OFFLINE": "1"}
    watch, load = Watch(str(folder)), os.getloadavg()[0]
    began = time.time()
    try:
        with (folder / "log").open("w") as log, watch:
            command = [python, entrant.folder / "run.py", folder / "configuration.json", folder]
            done = subprocess.run(command, env=environment, cwd=folder, stdout=log, stderr=log, check=False)
        if done.returncode:
            return key | {"failed": (folder / "log").read_text()[-2000:]}
        row = key | {
            "wall_s": round(time.time() - began, 2), "cpu_s": round(watch.cpu_s, 2), "peak_pss_mib": watch.peak >> 20,
            "load": round(load, 1), "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
            "rounds": [
                {
                    "round": each["round"], "s": round(each["time"] - began, 2),
                    "cpu_s": round(watch.cpu_until(each["time"]), 2),
                }
                for each in lines(folder / "rounds.jsonl")
            ],
            "client_rounds": told["rounds"] * told["per_round"], "bytes": summed(lines(folder / "wire.jsonl")),
            "sequences": told["sequences"],
        }  # fmt: skip
        return row | judged(told, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def lines(path: Path) -> list[Row]:
    """Of a file of JSON lines, which may not be there yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summed(messages: Sequence[Row]) -> list[Row]:
    """Bytes by client and direction."""
    totals: dict[tuple[str, str], list[int]] = {}
    for each in messages:
        totals.setdefault((each["client"], each["direction"]), []).append(each["bytes"])
    return [
        {"client": client, "direction": way, "messages": len(found), "bytes": sum(found)}
        for (client, way), found in sorted(totals.items())
    ]


def judged(told: Row, folder: Path) -> Row:
    """Held-out losses of every client by round, by one function for all; "base" is that without an adapter.

    Beside them the share of sequences whose greedy answer is right, where there are answers; and `own`, of adapters of
    clients' own.
    """
    import torch
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file
    from work import Batch, base_of

    torch.set_num_threads(told["threads"])
    held_out = {client["name"]: Batch.of([client["sequences"]], "held_out") for client in told["clients"]}
    kept = {int(path.name.removeprefix("adapter-")): path for path in folder.glob("adapter-*")}
    shared = {
        str(number): kept[number]
        for number in sorted(kept)
        if number and (number % told["judged_every"] == 0 or number == told["rounds"])
    }

    model, config = base_of(told), ""

    def scored(clients: Iterable[str]) -> dict[str, tuple[float, float]]:
        with torch.inference_mode():
            return {client: score(model.eval(), held_out[client]) for client in clients}

    def adapt(path: Path) -> None:
        nonlocal model, config
        if (wanted := (path / "adapter_config.json").read_text()) == config:
            set_peft_model_state_dict(model, load_file(path / "adapter_model.safetensors"))
        else:
            model, config = PeftModel.from_pretrained(base_of(told), path), wanted

    found = {"base": scored(held_out)}
    for name, path in shared.items():
        adapt(path)
        found[name] = scored(held_out)
    row: Row = {
        measure: {name: {client: pair[at] for client, pair in by.items()} for name, by in found.items()}
        for at, measure in enumerate(("losses", "right"))
    }
    if told["classes"] == 0 and not any(any(by.values()) for by in row["right"].values()):
        del row["right"]
    if own := {path.name: path for path in sorted(folder.glob("own/*"))}:
        row["own"] = {}
        for client, path in own.items():
            adapt(path)
            row["own"][client] = scored([client])[client][0]
    return row


def score(model: Any, held_out: Any) -> tuple[float, float]:
    """Mean loss over all tokens but a sequence's first, or over classes; share of sequences right throughout."""
    import torch
    from torch.nn.functional import cross_entropy

    total, counted, right = 0.0, 0, 0
    for chosen in torch.arange(len(held_out)).split(8):
        given = held_out[chosen]
        labels = given.pop("labels")
        logits = model(**given).logits.float()
        if logits.dim() == 3:
            logits, labels = logits[:, :-1], labels[:, 1:]
        else:
            logits = logits[:, None]
        counts = labels != -100
        total += float(cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        counted += int(counts.sum())
        right += int(((logits.argmax(-1) == labels) | ~counts).all(1).sum())
    return round(total / counted, 6), round(right / len(held_out), 4)


class Watch:
    """Memory and processor time of all processes of a cell, sampled."""

    def __init__(self, cell: str) -> None:
        self._mark, self._over = f"{CELL}={cell}".encode(), threading.Event()
        self._cpu: dict[str, float] = {}
        self._history: list[tuple[float, float]] = []
        self.peak = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def cpu_s(self) -> float:
        """Of all processes, up to the last sample of each."""
        return sum(self._cpu.values())

    def cpu_until(self, moment: float) -> float:
        """That of the last sample before a moment."""
        return max((cpu_s for at, cpu_s in self._history if at <= moment), default=0.0)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.5):
            self.peak = max(self.peak, sum(self._of(path) for path in Path("/proc").glob("[0-9]*")))
            self._history.append((time.time(), self.cpu_s))

    def _of(self, process: Path) -> int:
        """Proportional set size of a process of the cell, 0 of another one."""
        try:
            if self._mark not in (process / "environ").read_bytes().split(b"\0"):
                return 0
            ticks = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
            self._cpu[process.name] = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
            sizes = (process / "smaps_rollup").read_text().splitlines()
            return next(int(line.split()[1]) << 10 for line in sizes if line.startswith("Pss:"))
        except (OSError, StopIteration):
            return 0


def best_rate(tried: Sequence[Row]) -> float:
    """The rate with the lowest mean loss after the last round."""

    def last(row: Row) -> float:
        found = list(row["losses"].values())[-1]
        return sum(found.values()) / len(found)

    return float(min(tried, key=last)["rate"])


@dataclass
class Field:
    """Cells of a command.

    Attributes:
        cache: of environments and text.
        results: the folder of rows.
        work: a folder for sequences.
    """

    every: Mapping[str, Entrant]
    cache: Path
    results: Path
    work: Path
    failed: list[Row]

    def once(self, name: str, key: Row, entrant: Entrant, settings: Row) -> None:
        """Run a cell of a federation that has no row yet."""
        rows = self.results / f"results-{name}.jsonl"
        if any(all(row.get(part) == value for part, value in key.items()) for row in lines(rows)):
            return
        row = measured(key, entrant, self.told(name, key["seed"]) | settings, entrant.environment(self.cache))
        print(json.dumps({"work": name} | {part: row.get(part) for part in (*key, "wall_s", "failed")}), flush=True)
        if "failed" in row:  # it is run again by the next command
            self.failed.append(key)
            return
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def told(self, name: str, seed: int) -> Row:
        """A federation's configuration."""
        kept = self.work / f"{name}-{seed}.json"
        if not kept.exists():
            kept.write_text(json.dumps(configuration(FEDERATIONS[name], seed, self.cache, self.work)))
        return json.loads(kept.read_text())

    def rate(self, name: str, schedule: str) -> float:
        """The best one on a federation of choosing, with seed 100."""
        for rate in RATES:
            key = {"cell": f"choosing {schedule}", "seed": 100, "rate": rate}
            self.once(name, key, self.every["peft"], {"learning_rate": rate, "variant": {"schedule": schedule}})
        tried = lines(self.results / f"results-{name}.jsonl")
        return best_rate([row for row in tried if row["cell"] == f"choosing {schedule}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten minutes on `tiny`, instead of --work")
    parser.add_argument("--work", choices=[each.name for each in WORKS if "choosing" not in each.name])
    parser.add_argument("--form", choices=("full", "short"), default="full")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default="", help="beginnings of cells' titles, in this order: 'plait,peft best'")
    parser.add_argument("--results", type=Path, default=HERE)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "plait-field")
    options = parser.parse_args()
    if options.quick == bool(options.work):
        parser.error("expected --quick or --work")
    name = "quick" if options.quick else options.work + ("-short" if options.form == "short" else "")
    every = {entrant.name: entrant for entrant in entrants()}
    titles = cells(list(every.values()))
    wanted = [title for start in options.only.split(",") for title in titles if title.startswith(start)]
    with tempfile.TemporaryDirectory(prefix="field-work-") as work:
        field = Field(every, options.cache, options.results, Path(work), [])
        for seed in map(int, options.seeds.split(",")):
            for entrant, variant, setting in map(titles.__getitem__, wanted):
                rate = field.rate(FEDERATIONS[name].chosen_on, entrant.chosen_by) if setting == "best" else None
                key = {"cell": f"{entrant.name} {variant}".strip(), "setting": setting, "seed": seed, "rate": rate}
                field.once(name, key, entrant, {"learning_rate": rate, "variant": entrant.variants[variant]})
    subprocess.run([sys.executable, HERE / "check.py", options.results / f"results-{name}.jsonl"], check=True)
    sys.exit(f"failed: {field.failed}" if field.failed else None)


if __name__ == "__main__":
    main()
