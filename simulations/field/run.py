"""The field: every entrant on the same work, each in an environment of its own.

    python simulations/field/run.py --quick                 # all cells; finished ones are not run again
    python simulations/field/run.py --quick --only peft     # one entrant's

An entrant is a folder here with `run.py`, `requirements.txt` and `entrant.json`. Environments are made in the cache.
Every finished cell is a line of results-quick.jsonl, which check.py prints as a table.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
CELL = "FIELD_CELL"
"""In the environment of every process of a cell, wherever in the tree of processes it is."""
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
Row = dict[str, Any]


@dataclass(frozen=True)
class Entrant:
    """A folder that takes part.

    Attributes:
        variants: settings by name; "" is its own way with nothing set.
        fixes: what its own way fixes differently from the others'.
        chosen_by: schedule, `constant` or `cosine`, with which its best rate is chosen; empty without such a row.
    """

    folder: Path
    variants: Mapping[str, Mapping[str, object]]
    fixes: str
    chosen_by: str = ""

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
        made = cache / f"{self.name}-{hashlib.sha256(named).hexdigest()[:12]}"
        if not (made / ".installed").exists():
            print(f"installing {self.name} in {made}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", made], check=True)
            subprocess.run([made / "bin/python", "-m", "pip", "install", "-q", "-r", wanted], check=True, cwd=CHECKOUT)
            (made / ".installed").touch()
        return made / "bin" / "python"


def entrants(root: Path = HERE) -> list[Entrant]:
    """All folders that take part."""
    return [Entrant.of(found.parent) for found in sorted(root.glob("*/entrant.json"))]


@dataclass(frozen=True)
class Federation:
    """Work of the quick form, of the base `tiny` and packages of Python's library.

    Attributes:
        of: packages that the library is divided into.
        without: those of them that take no part.
    """

    name: str
    of: int
    seed: int
    without: frozenset[str] = frozenset()
    rounds: int = 5
    steps: int = 4
    held_out: int = 40


QUICK = Federation("stdlib", of=4, seed=0)
CHOOSING = Federation(
    "choosing", of=8, seed=100, without=frozenset({"distutils", "encodings", "idlelib", "pydoc_data"})
)


def configuration(federation: Federation, folder: Path) -> Row:
    """What entrants are told; writes the clients' sequences. Needs plait, whose own pipeline makes them."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    from plait.adapters import Task
    from plait.config import config_from_table
    from plait.simulation.partitioned_data import load_partitioned
    from plait.training.examples import split_examples, tokenise
    from plait.training.tiny import unpack_tiny

    common = {"base": "tiny", "data": "stdlib", "seed": federation.seed, "local_steps": federation.steps,
              "batch_size": 4, "seq_len": 64, "rank": 8, "alpha": 16.0, "rounds": federation.rounds, "threads": 1,
              "max_held_out_sequences": federation.held_out, "dtype": "float32"}  # fmt: skip
    told = {**common, "clients": federation.of}
    data, base = load_partitioned(config_from_table(told, where="the field")), unpack_tiny()
    tokenizer, clients = AutoTokenizer.from_pretrained(base, trust_remote_code=False), []
    for share in data.partition.shares:
        if share.name in federation.without:
            continue
        examples = tokenise(
            share.records, kind=data.kind, task=Task.CAUSAL_LM, labels=(), tokenizer=tokenizer, seq_len=64
        )
        split = split_examples(
            examples, client=share.name, seq_len=64, held_out_fraction=0.1, max_held_out=federation.held_out
        )
        parts = {
            name: torch.stack([torch.as_tensor(each.tokens, dtype=torch.int32) for each in part])
            for name, part in (("train", split.train), ("held_out", split.held_out))
        }
        path = folder / f"{federation.name}-{share.name}.safetensors"
        save_file(parts, path)
        clients.append({"name": share.name, "sequences": str(path)})
    return {
        "base": str(base), "clients": clients, "rounds": federation.rounds, "steps": federation.steps, "batch": 4,
        "seq_len": 64, "rank": 8, "alpha": 16,
        "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "dtype": "float32", "threads": 1, "seed": federation.seed, "plait": told,
    }  # fmt: skip


def cells(found: Sequence[Entrant]) -> Iterator[tuple[Entrant, str, str]]:
    """Entrant, variant and setting of the rate (`default` or `best`)."""
    for entrant in found:
        for variant in entrant.variants:
            yield entrant, variant, "default"
            if entrant.chosen_by:
                yield entrant, variant, "best"


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
                {"round": each["round"], "s": round(each["time"] - began, 2)}
                for each in lines(folder / "rounds.jsonl")
            ],
            "bytes": summed(lines(folder / "wire.jsonl")), "losses": judged(told, folder),
        }  # fmt: skip
        if (folder / "own.json").exists():
            row["own"] = json.loads((folder / "own.json").read_text())
        return row
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
    """Held-out loss of every client by round, by one function for all; "base" is that without an adapter."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    found: Row = {}
    kept = {int(path.name.removeprefix("adapter-")): path for path in folder.glob("adapter-*")}
    for name, adapter in (("base", None), *((str(number), kept[number]) for number in sorted(kept) if number)):
        model = AutoModelForCausalLM.from_pretrained(told["base"], dtype=torch.float32, trust_remote_code=False)
        model = PeftModel.from_pretrained(model, adapter) if adapter else model
        with torch.inference_mode():
            found[name] = {
                client["name"]: round(mean_loss(model.eval(), load_file(client["sequences"])["held_out"].long()), 6)
                for client in told["clients"]
            }
    return found


def mean_loss(model: Any, tokens: Any) -> float:
    """Mean over all tokens but each sequence's first."""
    return sum(float(model(input_ids=part, labels=part).loss) * len(part) for part in tokens.split(8)) / len(tokens)


class Watch:
    """Memory and processor time of all processes of a cell, sampled."""

    def __init__(self, cell: str) -> None:
        self._mark, self._over = f"{CELL}={cell}".encode(), threading.Event()
        self._cpu: dict[str, float] = {}
        self.peak = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def cpu_s(self) -> float:
        """Of all processes, up to the last sample of each."""
        return sum(self._cpu.values())

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.5):
            self.peak = max(self.peak, sum(self._of(path) for path in Path("/proc").glob("[0-9]*")))

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


def best_rate(chosen_by: str, results: Path) -> float:
    """The rate with the lowest mean loss after the last round of the choosing federation."""
    tried = [row for row in lines(results) if row["cell"] == f"choosing {chosen_by}" and "losses" in row]

    def last(row: Row) -> float:
        found = list(row["losses"].values())[-1]
        return sum(found.values()) / len(found)

    return float(min(tried, key=last)["rate"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the only form so far")
    parser.add_argument("--only", default="", help="entrants, separated by commas; all by default")
    parser.add_argument("--rates", default="default,best", help="one of the two settings, instead of both")
    parser.add_argument("--results", type=Path, default=HERE / "results-quick.jsonl")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "plait-field")
    options = parser.parse_args()
    if not options.quick:
        sys.exit("expected --quick: the full work is described in README.md and is not a command yet")
    every = {entrant.name: entrant for entrant in entrants()}
    wanted = [every[name] for name in options.only.split(",")] if options.only else list(every.values())
    failed: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="field-work-") as work:

        def once(key: Row, entrant: Entrant, told: Row) -> None:
            if any(all(row.get(name) == value for name, value in key.items()) for row in lines(options.results)):
                return
            row = measured(key, entrant, told, entrant.environment(options.cache))
            print(json.dumps({name: row.get(name) for name in (*key, "wall_s", "failed")}), flush=True)
            if "failed" in row:  # it is run again by the next command
                failed.append(key)
                return
            with options.results.open("a") as file:
                file.write(json.dumps(row) + "\n")

        choosing, quick = configuration(CHOOSING, Path(work)), configuration(QUICK, Path(work))
        schedules = {entrant.chosen_by for entrant in wanted if entrant.chosen_by and "best" in options.rates}
        for schedule in sorted(schedules):
            for rate in RATES:
                told = {**choosing, "learning_rate": rate, "variant": {"schedule": schedule}}
                once({"cell": f"choosing {schedule}", "rate": rate}, every["peft"], told)
        for entrant, variant, setting in cells(wanted):
            if setting not in options.rates:
                continue
            rate = best_rate(entrant.chosen_by, options.results) if setting == "best" else None
            told = {**quick, "learning_rate": rate, "variant": entrant.variants[variant]}
            once({"cell": f"{entrant.name} {variant}".strip(), "setting": setting, "rate": rate}, entrant, told)
    subprocess.run([sys.executable, HERE / "check.py", "--results", options.results], check=True)
    sys.exit(f"failed: {failed}" if failed else None)


if __name__ == "__main__":
    main()
