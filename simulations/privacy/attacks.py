"""What attackers find in adapters: python simulations/privacy/attacks.py (see README.md).

Every cell is a line in attacks.jsonl; finished ones are not repeated. In each run four clients share a random half of
a pool of records, one record a sequence, and canaries that stand in the data 1, 2, 4 and 8 times. The published
adapter is attacked by those who have it and the base: membership by the loss against the base's, by Min-K%++ (arXiv
2404.02936) and by LiRA (arXiv 2112.03570, algorithm 1 with one variance for all), which takes the other runs of the
same settings as its shadow models; canaries by their exposure (arXiv 1802.08232). For runs with differential privacy
canary clients bound epsilon from below (arXiv 2305.08846).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from plait.adapters import AdapterState  # noqa: E402
from plait.adapters.peft_reading import load_peft_directory  # noqa: E402
from plait.config import config_from_table  # noqa: E402
from plait.data import Dataset, Record, RecordKind, as_dataset  # noqa: E402
from plait.features.attacks.canary import audit  # noqa: E402
from plait.features.attacks.membership import exposures, simulated_sides  # noqa: E402
from plait.features.attacks.scores import Attack  # noqa: E402
from plait.features.attacks.training.likelihood import Likelihood, likelihoods  # noqa: E402
from plait.features.privacy.events import intents_in  # noqa: E402
from plait.features.privacy.run import privacy_of  # noqa: E402
from plait.rounds.ledger import read_events  # noqa: E402
from plait.rounds.run_directory import RunDirectory  # noqa: E402
from plait.simulation.execution import begin, execute, prepare  # noqa: E402
from plait.simulation.loaded import Loaded  # noqa: E402
from plait.simulation.simulation import Simulation  # noqa: E402

POOL = 320
CHARACTERS = 160
TIMES = (1, 2, 4, 8)
PLANTED_EACH = 2
CANDIDATES = 256

CELLS: Mapping[str, Mapping[str, object]] = {
    "float32": {"wire": "fp32"},
    "1 bit": {"wire": "1"},
    "masked": {"secure_aggregation": True},
    "1 bit, client DP, epsilon 1,000": {"wire": "1", "dp": "client", "dp_epsilon": 1000.0},
    "1 bit, client DP, epsilon 64": {"wire": "1", "dp": "client", "dp_epsilon": 64.0},
    "1 bit, client DP, epsilon 8": {"wire": "1", "dp": "client", "dp_epsilon": 8.0},
}
COMMON = {
    "base": "tiny", "clients": 4, "partition": "iid", "rounds": 3, "local_steps": 16, "batch_size": 4, "seq_len": 64,
    "gradient_accumulation_steps": 1, "rank": 8, "learning_rate": 0.01, "own_share": 0.0, "max_held_out_sequences": 4,
    "dtype": "float32",
}  # fmt: skip


@dataclass(frozen=True)
class Shadow:
    """A run of a cell.

    Attributes:
        joined: (pool,) which records were trained on.
        loss: (pool,) of every record by the adapter.
    """

    joined: np.ndarray
    loss: np.ndarray


def pool() -> list[Record]:
    """Pieces of the standard library's text, evenly spaced."""
    texts = [record.text for record in as_dataset("stdlib").records if len(record.text) > CHARACTERS]
    chosen = [texts[int(index * len(texts) / POOL)] for index in range(POOL)]
    return [Record(prompt="Continue.", completion=text[:CHARACTERS]) for text in chosen]


def canaries() -> list[str]:
    """Candidates of one form; the first ones are planted."""
    generator = np.random.default_rng(9)
    codes = ["".join(map(str, generator.integers(0, 10, 9))) for _ in range(CANDIDATES)]
    return [f"The code is\n{code}" for code in codes]


def planted() -> list[Record]:
    """The planted canaries, as often as each stands in the data."""
    chosen = canaries()[: PLANTED_EACH * len(TIMES)]
    found: list[Record] = []
    for number, canary in enumerate(chosen):
        prompt, completion = canary.split("\n")
        found += [Record(prompt=prompt, completion=completion)] * TIMES[number % len(TIMES)]
    return found


def dataset_of(records: Sequence[Record], seed: int) -> Dataset:
    """A half of the pool, by coins, and the canaries, in random order."""
    generator = np.random.default_rng(1000 + seed)
    chosen = [record for record in records if generator.random() < 0.5] + planted()
    order = generator.permutation(len(chosen))
    return Dataset.of(f"half-{seed}", RecordKind.PROMPT, [chosen[index] for index in order])


def trained(settings: Mapping[str, object], dataset: Dataset, out: Path, loaded: Loaded) -> RunDirectory:
    """One run of a cell."""
    config = config_from_table({**COMMON, **settings, "out": str(out)})
    run, data = prepare(config, quiet=True, dataset=dataset, loaded=loaded)
    execute(run, data, begin(run, quiet=True), quiet=True, loaded=loaded)
    return RunDirectory.find(out)


def measured(name: str, *, shadows: int, loaded: Loaded) -> dict[str, object]:
    """All figures of a cell."""
    records, settings = pool(), CELLS[name]
    found: list[Shadow] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(shadows):
            out = Path(folder) / str(seed)
            dataset = dataset_of(records, seed)
            directory = trained({**settings, "seed": seed}, dataset, out, loaded)
            run, data = prepare(
                config_from_table({**COMMON, **settings, "seed": seed}), quiet=True, dataset=dataset, loaded=loaded
            )
            simulation = Simulation(run, data, loaded)
            adapter = load_peft_directory(directory.adapter)
            spec, base = adapter.spec(), simulation.base
            whole = loaded.tokens(
                records, kind=RecordKind.PROMPT, task=spec.task, labels=(), tokenizer=base.tokenizer, seq_len=64
            )
            sides = simulated_sides(simulation, run, read_events(directory.ledger), most=10**6)
            drawn = {example.digest for example in sides.members}
            joined = np.array([example.digest in drawn for example in whole])
            model = base.carrying(spec, AdapterState.from_tensors(spec.layout, adapter.tensors))
            how = {"task": spec.task, "pad_token": base.pad_token, "batch_size": 16}
            adapted = likelihoods(model, whole, **how)
            with model.disable_adapter():
                alone = likelihoods(model, whole, **how)
            found.append(Shadow(joined, np.array([each.loss for each in adapted])))
            if seed == 0:
                first = single(adapted, alone, joined)
                candidates = Dataset.of("candidates", RecordKind.TEXT, [Record(text=text) for text in canaries()])
                texts = [record.content for record in dataset.records]
                first["exposure"] = [vars(each) for each in exposures(base, adapter, candidates, texts, batch_size=16)]
                charges = len(intents_in(read_events(directory.ledger)))
                if privacy := privacy_of(run.config):
                    proven = audit(privacy, rounds=charges)
                    first |= {"epsilon_bound": proven.bound, "epsilon_bound_most": proven.most}
                    first |= {"noise_over_clip": privacy.noise_over_clip(spec.layout.size)}
            shutil.rmtree(out)
    return {"cell": name, "shadows": shadows, **first, "lira": lira(found)}


def single(adapted: Sequence[Likelihood], alone: Sequence[Likelihood], joined: np.ndarray) -> dict[str, object]:
    """Attacks on one run, and what it learned."""
    after, before = (np.array([each.loss for each in found]) for found in (adapted, alone))
    k_after, k_before = (np.array([each.min_k for each in found]) for found in (adapted, alone))
    scores = {"ratio": before - after, "min_k": k_after - k_before, "control": -before}
    attacks = {
        name: Attack.of(name, values[joined].tolist(), values[~joined].tolist()) for name, values in scores.items()
    }
    return {
        "members": int(joined.sum()),
        "others": int((~joined).sum()),
        "gain_members": float((before - after)[joined].mean()),
        "gain_others": float((before - after)[~joined].mean()),
        **{name: {"auc": each.auc, "margin": each.margin, "tpr": each.tpr} for name, each in attacks.items()},
    }


def lira(runs: Sequence[Shadow]) -> dict[str, float]:
    """Every run in turn is attacked with the others as shadow models; the mean over the runs."""
    losses, joined = np.stack([run.loss for run in runs]), np.stack([run.joined for run in runs])
    areas, hits = [], []
    for target in range(len(runs)):
        others = np.arange(len(runs)) != target
        inside = np.where(joined[others], losses[others], np.nan)
        outside = np.where(~joined[others], losses[others], np.nan)
        usable = (joined[others].sum(axis=0) > 1) & ((~joined[others]).sum(axis=0) > 1)
        means = [np.nanmean(each[:, usable], axis=0) for each in (inside, outside)]
        spread = [np.nanvar(each[:, usable] - mean) for each, mean in zip((inside, outside), means, strict=True)]
        seen, member = losses[target][usable], joined[target][usable]
        logs = [-((seen - mean) ** 2) / (2 * var) - np.log(var) / 2 for mean, var in zip(means, spread, strict=True)]
        score = logs[0] - logs[1]
        attack = Attack.of("lira", score[member].tolist(), score[~member].tolist())
        areas.append(attack.auc)
        hits.append(attack.tpr)
    spread_of = float(np.std(areas, ddof=1) / np.sqrt(len(areas)))
    return {"auc": float(np.mean(areas)), "margin": 1.96 * spread_of, "tpr": float(np.mean(hits))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shadows", type=int, default=12)
    parser.add_argument("--only", default="", help="part of a cell's name")
    parser.add_argument("--out", type=Path, default=HERE / "attacks.jsonl")
    options = parser.parse_args()
    done = (
        {json.loads(line)["cell"] for line in options.out.read_text().splitlines()} if options.out.exists() else set()
    )
    loaded = Loaded()
    for name in CELLS:
        if name in done or options.only not in name:
            continue
        line = measured(name, shadows=options.shadows, loaded=loaded)
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(name, json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
