"""What an approximate withdrawal leaves of a client, beside a run that the client never joined.

    python simulations/evidence/residual.py TEXT DIR [--column author] [--seeds 0,1,2] [--base smollm2-135m]

TEXT is a JSONL file whose column tells clients apart (`simulations/defaults/corpora.py`). The client with the least
text withdraws, approximately and exactly. An attack on its training sequences, which tells them from those that it
held out, is made on the adapter before, and on both after. Prints a JSON object per seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import plait
from plait.api.received import admitted_settings
from plait.api.running import go_on
from plait.features.withdrawal.folding import fold_without
from plait.features.withdrawal.residual import residual
from plait.features.withdrawal.withdrawing import plan_of
from plait.rounds.run_directory import RunDirectory
from plait.run import resolve
from plait.settle import settle

CLIENTS = 4


def measured(text: Path, column: str, folder: Path, seed: int, base: str, rounds: int, steps: int) -> dict[str, object]:
    """One run, both withdrawals, and the attack on each."""
    shutil.rmtree(folder, ignore_errors=True)
    plait.simulate(
        text, out=folder / "run", base=base, partition=f"natural:{column}", clients=CLIENTS, rounds=rounds,
        local_steps=steps, batch_size=4, seq_len=128, seed=seed, keep_updates=True, eval_every=rounds, quiet=True,
    )  # fmt: skip
    directory = RunDirectory.find(folder / "run")
    settings = admitted_settings(directory, (), without=("publish", "callbacks"))
    examples: dict[str, int] = {}
    for event in plait.open_run(folder / "run").events:
        if event.event == "update_received":
            examples[event.client] = event.examples  # type: ignore[attr-defined]
    client = min(examples, key=lambda name: examples[name])
    fold_without(resolve(settle(settings)), directory, client, folder / "approximate")
    plan = plan_of(directory, settings, client, out=folder / "exact")
    assert plan.again
    go_on(RunDirectory(plan.out), plan.again, quiet=True)
    places = {"before": folder / "run", "approximate": folder / "approximate", "exact": folder / "exact"}
    found = residual(directory, settings, client, {name: place / "adapter" for name, place in places.items()})
    figures = {name: [round(each.auc, 4), round(each.margin, 4)] for name, each in found.items()}
    losses = [event.loss for event in plait.open_run(folder / "run").events if event.event == "evaluated"]  # type: ignore[attr-defined]
    return {
        "text": text.stem,
        "seed": seed,
        "base": base,
        "rounds": rounds,
        "local_steps": steps,
        "clients": len(examples),
        **figures,
        "losses": losses,
    }


def main() -> None:
    """All seeds."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("text", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--column", default="author")
    arguments.add_argument("--seeds", default="0,1,2")
    arguments.add_argument("--base", default="smollm2-135m")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--local-steps", type=int, default=20)
    given = arguments.parse_args()
    for seed in map(int, given.seeds.split(",")):
        place = given.folder / f"{given.text.stem}-{seed}"
        print(
            json.dumps(measured(given.text, given.column, place, seed, given.base, given.rounds, given.local_steps)),
            flush=True,
        )


if __name__ == "__main__":
    main()
