"""What record-level privacy leaves of an adapter's gain: python simulations/privacy/record.py TEXTS (see README.md).

TEXTS is a JSONL file with texts, such as `austen.jsonl` of `simulations/defaults/corpora.py`. They are cut into pieces,
one record each; eight clients train on them, and pieces held out of training say what was learned. Every cell is a
line in record.jsonl; finished ones are not repeated. `--choose` tries learning rates on seed 0; other seeds take the
best of them, or the methods' defaults where none were tried. `--table` prints a row for each rate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from plait.adapters.methods import method_named  # noqa: E402
from plait.adapters.peft_reading import load_peft_directory  # noqa: E402
from plait.config import config_from_table  # noqa: E402
from plait.data import Dataset, Record, RecordKind  # noqa: E402
from plait.rounds.run_directory import RunDirectory  # noqa: E402
from plait.run import Run  # noqa: E402
from plait.simulation.execution import begin, execute, prepare  # noqa: E402
from plait.simulation.loaded import Loaded  # noqa: E402
from plait.simulation.simulation import Simulation  # noqa: E402
from plait.training.tokenization import ExampleFormat  # noqa: E402
from plait.training.trainer import measure_losses  # noqa: E402

CHARACTERS, RECORDS, MEASURED = 96, 8000, 512
METHODS: Mapping[str, Mapping[str, object]] = {
    "Fed-SB": {"method": "lora_xs", "rule": "fedsb", "rank": 16},
    "FFA": {"rule": "ffa", "rank": 8},
    "FedSVD": {"rule": "fedsvd", "rank": 8},
    "FedAvg": {"rule": "fedavg", "rank": 8},
}
COMMON = {
    "base": "tiny", "clients": 8, "partition": "iid", "rounds": 3, "local_steps": 8, "batch_size": 32, "seq_len": 32,
    "personalize": 0.0, "select": "last", "eval_every": 3, "max_held_out_sequences": 4, "dtype": "float32",
}  # fmt: skip
EPSILONS = (0.0, 8.0, 1.0)
"""0 for a run without privacy, at plait's own learning rate."""
TIMES = (0.3, 1.0, 3.0)
"""Of the method's default learning rate, among which `--choose` chooses."""


def pieces(texts: Iterable[str], seed: int, count: int, others: int) -> tuple[list[Record], list[Record]]:
    """Records to train on and others to measure on, so many of each, both drawn from all texts."""
    every = [" ".join(text.split()) for text in texts]
    cut = [text[at : at + CHARACTERS] for text in every for at in range(0, len(text) - CHARACTERS, CHARACTERS)]
    order = np.random.default_rng(seed).permutation(len(cut))
    records = [Record(text=cut[index]) for index in order[: count + others]]
    return records[:count], records[count:]


def gained(name: str, epsilon: float, times: float, seed: int, path: Path, loaded: Loaded) -> dict[str, object]:
    """One run, and how far the loss on other pieces fell, in nats per token."""
    texts = (json.loads(line)["text"] for line in path.read_text().splitlines())
    records, others = pieces(texts, seed, RECORDS, MEASURED)
    dataset = Dataset.of(f"pieces-{seed}", RecordKind.TEXT, records)
    settings = {**COMMON, **METHODS[name], "seed": seed}
    if epsilon:
        method = method_named(str(settings.get("method", "lora")))
        rate = times * method.learning_rate_at(int(str(settings["rank"])))
        settings |= {"dp": "record", "dp_epsilon": epsilon, "learning_rate": rate}
    with tempfile.TemporaryDirectory() as folder:
        config = config_from_table({**settings, "out": f"{folder}/run"})
        begun = time.process_time()
        run, data = prepare(config, quiet=True, dataset=dataset, loaded=loaded)
        execute(run, data, begin(run, quiet=True), quiet=True, loaded=loaded)
        taken = time.process_time() - begun
        before, after, size = measured(run, data, others, loaded)
    return {
        "method": name, "epsilon": epsilon, "times": times if epsilon else 0.0, "seed": seed,
        "parameters": size, "base": before, "gain": before - after, "cpu_s": round(taken, 1),
    }  # fmt: skip


def measured(run: Run, data: object, others: Sequence[Record], loaded: Loaded) -> tuple[float, float, int]:
    """Loss of the base and of a finished run's adapter on some pieces, and the adapter's size."""
    config = run.config
    adapter = load_peft_directory(RunDirectory.find(Path(config.out)).adapter)
    base = Simulation(run, data.partition.shares, loaded).base
    model = base.with_adapter(adapter.spec(), adapter.state)
    rows = loaded.tokens(
        others, base.tokenizer, ExampleFormat(RecordKind.TEXT, adapter.spec().task, (), config.seq_len, apart=True)
    )

    def loss() -> float:
        found = measure_losses(model, rows, task=adapter.spec().task, pad_token=base.pad_token, batch_size=32)
        return sum(found.losses) / sum(found.counts)

    after = loss()
    with model.disable_adapter():
        before = loss()
    return before, after, adapter.spec().layout.size


def key_of(line: Mapping[str, object]) -> tuple[object, ...]:
    """What tells cells apart."""
    return (line["method"], line["epsilon"], line["times"], line["seed"])


def best_times(lines: Sequence[Mapping[str, object]], name: str, epsilon: float) -> float:
    """The learning rate, as a multiple of the default, that gained most on seed 0; 1 where none was tried."""
    tried = [line for line in lines if line["seed"] == 0 and (line["method"], line["epsilon"]) == (name, epsilon)]
    return float(str(max(tried, key=lambda line: float(str(line["gain"])))["times"])) if tried else 1.0


def table(lines: Sequence[Mapping[str, object]], seeds: Sequence[int]) -> str:
    """Gains and what is kept of the same method's without privacy, mean over the seeds; a row for each rate tried."""
    rows = [
        "| | parameters | learning rate, times the default | gain without privacy, nats | kept at epsilon 8 | at 1 |",
        "|---|---|---|---|---|---|",
    ]
    gains = {key_of(line): float(str(line["gain"])) for line in lines}
    sizes = {line["method"]: line["parameters"] for line in lines}
    for name, times in itertools.product(METHODS, TIMES):
        plain = [gains[name, 0.0, 0.0, seed] for seed in seeds]
        cells: list[str] = []
        for epsilon in EPSILONS[1:]:
            found = [gains.get((name, epsilon, times, seed)) for seed in seeds]
            kept = [gain / most for gain, most in zip(found, plain, strict=True) if gain is not None]
            cells.append(f"{statistics.mean(kept):.0%}" if len(kept) == len(seeds) else "not run")
        if set(cells) != {"not run"}:
            rows.append(
                f"| {name} | {sizes[name]:,} | {times:g} | {statistics.mean(plain):.3f} | {' | '.join(cells)} |"
            )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path, nargs="?")
    parser.add_argument("--choose", action="store_true", help="try all learning rates on seed 0")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=HERE / "record.jsonl")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.table:
        print(table(lines, options.seeds))
        return
    loaded = Loaded()
    seeds = [0] if options.choose else options.seeds
    for seed, epsilon, name in itertools.product(seeds, EPSILONS, METHODS):
        ways = TIMES if options.choose and epsilon else (best_times(lines, name, epsilon) if epsilon else 0.0,)
        for times in ways:
            if (name, epsilon, times, seed) in {key_of(line) for line in lines}:
                continue
            line = gained(name, epsilon, times, seed, options.texts, loaded)
            lines.append(line)
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
