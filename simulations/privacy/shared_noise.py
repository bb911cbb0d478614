"""What noise of clients under masks leaves of an adapter's gain, beside the server's noise.

    python simulations/privacy/shared_noise.py

A hundred simulated clients on pieces of the standard library; pieces held out of training say what was learned. Every
cell is a line in shared_noise.jsonl; finished ones are not repeated. Noise under masks is the clients' own, drawn from
the system, so its cells differ from run to run.
"""

from __future__ import annotations

import itertools
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
from plait.rounds.run_directory import RunDirectory  # noqa: E402
from plait.simulation.execution import begin, execute, prepare  # noqa: E402
from plait.simulation.loaded import Loaded  # noqa: E402

RECORDS, MEASURED = 3200, 256
COMMON = {
    "base": "tiny", "clients": 100, "partition": "iid", "rounds": 3, "local_steps": 4, "batch_size": 8, "seq_len": 32,
    "rule": "ffa", "rank": 1, "learning_rate": 0.01, "threads": 1, "own_share": 0.0, "keep": "last",
    "eval_every": 3, "max_held_out_sequences": 1, "dtype": "float32",
}  # fmt: skip
NOISE = {"dp": "client", "dp_epsilon": 8.0}
WAYS: Mapping[str, Mapping[str, object]] = {
    "none": {},
    "central": NOISE,
    "under masks": {**NOISE, "secure_aggregation": True},
}
CLIPS = (1.0,)


def gained(way: str, clip: float, seed: int, loaded: Loaded) -> dict[str, object]:
    """One run, and how far the loss on other pieces fell, in nats per token."""
    records, others = pieces((record.text for record in as_dataset("stdlib").records), seed, RECORDS, MEASURED)
    dataset = Dataset.of(f"pieces-{seed}", RecordKind.TEXT, records)
    settings = {**COMMON, **WAYS[way], "seed": seed} | ({"dp_clip": clip} if way != "none" else {})
    with tempfile.TemporaryDirectory() as folder:
        config = config_from_table({**settings, "out": f"{folder}/run"})
        begun = time.process_time()
        run, data = prepare(config, quiet=True, dataset=dataset, loaded=loaded)
        execute(run, data, begin(run, quiet=True), quiet=True, loaded=loaded)
        taken = time.process_time() - begun
        directory = RunDirectory.find(Path(config.out))
        events = [json.loads(line) for line in directory.ledger.read_text().splitlines()]
        noise = [event["noise_over_clip"] for event in events if event["event"] == "privacy_started"]
        uplink = [event["uplink_bytes"] for event in events if event["event"] == "update_received"]
        before, after, size = measured(run, data, others, loaded)
    return {
        "way": way, "clip": clip, "seed": seed, "parameters": size,
        "noise_over_clip": round(noise[0], 3) if noise else 0.0, "uplink_bytes": max(uplink),
        "base": round(before, 4), "gain": round(before - after, 4), "cpu_s": round(taken, 1),
    }  # fmt: skip


def main() -> None:
    out = HERE / "shared_noise.jsonl"
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(line["way"], line["clip"], line["seed"]) for line in lines}
    loaded = Loaded()
    for seed, (way, clip) in itertools.product((0,), itertools.product(WAYS, CLIPS)):
        at = clip if way != "none" else 0.0
        if (way, at, seed) in done:
            continue
        done.add((way, at, seed))
        line = gained(way, at, seed, loaded)
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
