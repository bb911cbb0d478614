"""Runs without any attacker: how many updates does the norm bound refuse? See README.md for the command.

Every rule, every method, every server optimizer and what else makes updates grow or come in bursts, on the tiny base.
Results are appended to honest.jsonl, one run a line; what stands there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from plait.adapters.methods import METHODS
from plait.aggregation.optimizers import OPTIMIZERS
from plait.config import RunConfig
from plait.errors import PlaitError
from plait.federation import run_federation
from plait.flower.rule_table import ALL_RULES
from plait.rounds.ledger import read_lines
from plait.simulation.execution import prepare
from plait.simulation.simulation import Simulation

HERE = Path(__file__).parent
BASE = {
    "data": "stdlib", "base": "tiny", "clients": 3, "rounds": 8, "local_steps": 4, "batch_size": 2, "seq_len": 32,
    "rank": 4, "eval_every": 8, "max_held_out_sequences": 1, "threads": 1, "device": "cpu", "dtype": "float32",
    "learning_rate": 1e-3, "weighting": "examples", "server_optimizer": "none", "own_share": 0,
}  # fmt: skip


def cases() -> dict[str, dict[str, object]]:
    """What is run, by name."""
    found: dict[str, dict[str, object]] = {
        "scaffold": {"correction": "scaffold"},
        "learning rate x 10": {"learning_rate": 1e-2},
        "learning rate x 100": {"learning_rate": 1e-1},
        "warmup of 30 steps": {"warmup_steps": 30, "lr_schedule": "linear"},
        "20 rounds": {"rounds": 20},
        "skewed sizes": {"partition": "exponential", "clients": 5},
        "mixed ranks": {"client_ranks": "4,2,1", "rule": "flexlora"},
        "clip": {"norm_bound": "clip:10"},
    }
    found |= {f"wire {wire}": {"wire": wire} for wire in ("1", "8", "bf16", "fp32")}
    found |= {f"optimizer {name}": {"server_optimizer": name} for name in sorted((*OPTIMIZERS, "feddyn"))}
    found |= {f"method {name}": {"method": name, "learning_rate": 0.0} for name in sorted(METHODS)}
    found |= {f"rule {name}": {"rule": name, "clients": 8 if name in _MANY else 3} for name in sorted(ALL_RULES)}
    found["rule fedsb"] |= {"method": "lora_xs", "learning_rate": 0.0}  # it has no other
    return found


_MANY = frozenset({"bulyan", "krum", "multi_krum"})  # these need many clients


def main() -> None:
    """Run what is missing, for as long as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--results", type=Path, default=HERE / "honest.jsonl")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    done = set()
    if options.results.exists():
        done = {json.loads(line)["case"] for line in options.results.read_text().splitlines()}
    for name, changes in cases().items():
        if name in done or time.monotonic() > end:
            continue
        line: dict[str, object] = {"case": name}
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            try:
                run, data = prepare(RunConfig(**{**BASE, **changes, "out": str(out)}), quiet=True)
                run_federation(Simulation(run, data).channel(), run)
            except PlaitError as error:
                line["error"] = str(error)
            if (out / "ledger.jsonl").exists():
                line |= _told(read_lines(out / "ledger.jsonl"))
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def _told(events: list[dict[str, object]]) -> dict[str, object]:
    """Updates, refusals, and by how much the largest figure exceeded its median."""
    received = [event for event in events if event["event"] == "update_received"]
    refused = [event for event in events if event["event"] == "update_refused"]
    clipped = [client for event in events for client in event.get("clipped", [])]
    told: dict[str, object] = {"updates": len(received), "refused": len(refused)}
    if refused:
        told["first"] = f"round {refused[0]['round']}: {refused[0]['reason']}: {refused[0]['detail']}"
    if clipped:
        told["clipped"] = len(clipped)
    return told


if __name__ == "__main__":
    main()
