"""What clients that rest leave of an adapter's gain: python simulations/privacy/rests.py (see README.md).

Two hundred simulated clients with pieces of the standard library's text, twenty of them in a round, each at most every
tenth round: noise as if a client joined every round, and noise that counts on its rests, at the same epsilon. The
adapter is measured on pieces that no client trains on. Every cell is a line in rests.jsonl; finished ones are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from record import measured, pieces  # noqa: E402

from plait.config import config_from_table  # noqa: E402
from plait.data import Dataset, RecordKind, as_dataset  # noqa: E402
from plait.features.privacy.card import PrivacyCard  # noqa: E402
from plait.rounds.ledger import read_events  # noqa: E402
from plait.rounds.run_directory import RunDirectory  # noqa: E402
from plait.rounds.run_view import RunView  # noqa: E402
from plait.simulation.execution import begin, execute, prepare  # noqa: E402
from plait.simulation.loaded import Loaded  # noqa: E402

RECORDS, MEASURED = 4000, 256
CELLS: Mapping[str, Mapping[str, object]] = {
    "no privacy": {},
    "independent, every round": {"dp": "client"},
    "independent, resting": {"dp": "client", "dp_min_separation": 10},
}
COMMON = {
    "base": "tiny", "method": "lora_xs", "rule": "fedsb", "rank": 8, "clients": 200, "clients_per_round": 20,
    "partition": "iid", "rounds": 20, "local_steps": 2, "batch_size": 8, "seq_len": 32, "learning_rate": 0.01,
    "own_share": 0.0, "keep": "last", "eval_every": 20, "eval_clients": 2, "max_held_out_sequences": 4,
    "dtype": "float32", "wire": "8", "weighting": "equal",
}  # fmt: skip


def cell(name: str, epsilon: float, clip: float, seed: int, loaded: Loaded) -> dict[str, object]:
    """One run, and how far the loss on other pieces fell, in nats per token."""
    records, others = pieces((record.text for record in as_dataset("stdlib").records), seed, RECORDS, MEASURED)
    settings = {**COMMON, **CELLS[name], "seed": seed}
    if name != "no privacy":
        settings |= {"dp_epsilon": epsilon, "dp_clip": clip}
    with tempfile.TemporaryDirectory() as folder:
        config = config_from_table({**settings, "out": f"{folder}/run"})
        begun = time.process_time()
        dataset = Dataset.of(f"pieces-{seed}", RecordKind.TEXT, records)
        run, data = prepare(config, quiet=True, dataset=dataset, loaded=loaded)
        execute(run, data, begin(run, quiet=True), quiet=True, loaded=loaded)
        taken = time.process_time() - begun
        before, after, size = measured(run, data, others, loaded)
        view = RunView.of(read_events(RunDirectory.find(Path(config.out)).ledger))
    card = next((each for each in view.cards.values() if isinstance(each, PrivacyCard)), None)
    promised = card.promised if card else None
    return {
        "cell": name, "epsilon": card.epsilon if card else None, "clip": clip, "seed": seed,
        "parameters": size, "base": round(before, 4), "gain": round(before - after, 4),
        "noise_multiplier": promised and promised.noise_multiplier,
        "noise_over_clip": promised and promised.noise_over_clip, "cpu_s": round(taken, 1),
    }  # fmt: skip


def main() -> None:
    """Every cell that is not there yet."""
    parser = argparse.ArgumentParser(description="What rests of clients leave of a gain.")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--clip", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    asked = parser.parse_args()
    path, loaded = HERE / "rests.jsonl", Loaded()
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    # What a run has spent is a hair below what was asked for.
    done = {(line["cell"], line["epsilon"] and round(line["epsilon"], 3), line["clip"], line["seed"]) for line in lines}
    for seed in asked.seeds:
        for name in asked.cells:
            epsilon = None if name == "no privacy" else round(asked.epsilon, 3)
            if (name, epsilon, asked.clip, seed) not in done:
                line = cell(name, asked.epsilon, asked.clip, seed, loaded)
                print(json.dumps(line), flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
