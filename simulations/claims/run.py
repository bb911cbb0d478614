"""Common claims about low-rank adaptation, measured: rates, ranks, forgetting, formats, spectra, memory, sizes.

    python simulations/claims/run.py rates          # best learning rate of LoRA over that of full fine-tuning
    python simulations/claims/run.py ranks          # ranks 1 to 64
    python simulations/claims/run.py forgetting     # loss on other text, LoRA against full fine-tuning
    python simulations/claims/run.py formats        # bfloat16 against float32
    python simulations/claims/run.py spectrum       # singular values of the learned change
    python simulations/claims/run.py memory         # training against inference, SmolLM2-135M
    python simulations/claims/run.py sizes          # parameters and bytes by rank, SmolLM2-135M

Each writes results-NAME.json beside this file; `plot.py` draws them. Base `tiny`, seeds 0 to 2, unless stated
otherwise: BBC news is learned, code is the other text.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from lab import CODE, Lab

from plait.adapters import AdapterState
from plait.aggregation import geometry_of
from plait.training.blueprint import Blueprint

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
BEST = {"lora": 3e-3, "full": 1e-3}
RANKS = (1, 2, 4, 8, 16, 32, 64)


def rates(base: str, seeds: tuple[int, ...], steps: int) -> list[dict[str, object]]:
    """Held-out loss after a number of steps, by method and learning rate."""
    lab, rows = _lab(base), list[dict[str, object]]()
    for seed in seeds:
        for method in ("lora", "full"):
            blueprint = lab.design(seed, method=method)
            factor = 10 if method == "lora" else 1
            for rate in (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
                *_, (point, _) = lab.train(blueprint, rate=rate * factor, steps=steps, seed=seed)
                rows.append({"method": method, "rate": rate * factor, "seed": seed, "loss": point.learned})
                print(rows[-1], flush=True)
    return rows


def ranks(base: str, seeds: tuple[int, ...], steps: int, wanted: tuple[int, ...] = RANKS) -> list[dict[str, object]]:
    """Held-out loss after a number of steps, by rank."""
    lab, rows = _lab(base), list[dict[str, object]]()
    for seed in seeds:
        for rank in wanted:
            blueprint = lab.design(seed, rank=rank)
            *_, (point, _) = lab.train(blueprint, rate=BEST["lora"], steps=steps, seed=seed, every=steps // 4)
            row = {"rank": rank, "parameters": blueprint.spec.layout.size, "seed": seed}
            rows.append(row | {"steps": point.steps, "loss": point.learned})
            print(rows[-1], flush=True)
    return rows


def forgetting(base: str, seeds: tuple[int, ...], steps: int) -> list[dict[str, object]]:
    """Both losses during training."""
    lab, rows = _lab(base), list[dict[str, object]]()
    scale = 1.0 if base == "tiny" else 0.1
    for seed in seeds:
        for method in ("lora", "full"):
            blueprint = lab.design(seed, method=method)
            rate = scale * BEST[method]
            for point, _ in lab.train(blueprint, rate=rate, steps=steps, seed=seed, every=steps // 5, elsewhere=True):
                rows.append({"method": method, "rate": rate, "seed": seed, **asdict(point)})
                print(rows[-1], flush=True)
    return rows


def formats(base: str, seeds: tuple[int, ...], steps: int) -> list[dict[str, object]]:
    """Held-out loss after a number of steps, by compute type; masters are float32 in both."""
    rows: list[dict[str, object]] = []
    for dtype in ("float32", "bfloat16"):
        lab = Lab(base, dtype=dtype)
        for seed in seeds:
            for method in ("lora", "full"):
                points = list(lab.train(lab.design(seed, method=method), rate=BEST[method], steps=steps, seed=seed))
                (before, _), (after, _) = points[0], points[-1]
                row = {"dtype": dtype, "method": method, "seed": seed}
                rows.append(row | {"before": before.learned, "loss": after.learned})
                print(rows[-1], flush=True)
    return rows


def spectrum(base: str, seeds: tuple[int, ...], steps: int) -> list[dict[str, object]]:
    """Share of the squared singular values of the learned change in the first k, means over modules."""
    lab, rows = _lab(base), list[dict[str, object]]()
    for seed in seeds:
        for method, rank in (("lora", 8), ("lora", 64), ("full", 8)):
            blueprint = lab.design(seed, method=method, rank=rank)
            *_, (_, state) = lab.train(blueprint, rate=BEST[method], steps=steps, seed=seed)
            shares = np.zeros(64)
            changes = list(_changes(blueprint, state))
            for change in changes:
                energy = np.linalg.svd(change, compute_uv=False)[:64] ** 2
                whole = float(np.sum(change**2))
                shares += np.pad(np.cumsum(energy) / whole, (0, 64 - len(energy)), mode="edge") / len(changes)
            rows.append({"method": method, "rank": rank, "seed": seed, "shares": [round(x, 5) for x in shares]})
            print(method, rank, seed, [round(float(shares[k - 1]), 3) for k in (1, 4, 8, 16, 32)], flush=True)
    return rows


def sizes(base: str, _seeds: tuple[int, ...], _steps: int) -> list[dict[str, object]]:
    """Parameters of LoRA by rank, and how much smaller it is than the base."""
    lab = Lab("smollm2-135m" if base == "tiny" else base)
    blueprint = lab.design(0)
    sides = sum(pair.d_in + pair.d_out for pair in geometry_of(blueprint.spec).pairs)
    whole = blueprint.base_parameters
    return [
        {"rank": rank, "parameters": (count := rank * sides), "ratio": round(whole / count, 1),
         "fp32_bytes": 4 * count, "one_bit_bytes": count // 8, "base_bytes": 4 * whole}
        for rank in RANKS
    ]  # fmt: skip


def memory(base: str, _seeds: tuple[int, ...], steps: int) -> list[dict[str, object]]:
    """Resident memory of inference and training, each in a separate process."""
    rows: list[dict[str, object]] = []
    for dtype in ("bfloat16", "float32"):
        for method in ("inference", "lora", "full", "qlora"):
            command = [sys.executable, str(HERE / "footprint.py"), base, method, dtype, str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                rows.append({"method": method, "dtype": dtype, "refused": done.stderr.strip().splitlines()[-1]})
            else:
                rows.append(json.loads(done.stdout.splitlines()[-1]))
            (HERE / "results-memory.json").write_text(json.dumps(rows, indent=0) + "\n")
            print(rows[-1], flush=True)
    return rows


def _lab(base: str) -> Lab:
    return Lab(base) if base == "tiny" else Lab(base, learn=CODE, dtype="bfloat16", held_out=16)


def _changes(blueprint: Blueprint, state: AdapterState) -> list[np.ndarray]:
    """The learned change, matrix by matrix."""
    geometry = geometry_of(blueprint.spec)
    if geometry.pairs:
        return [pair.scale * pair.b_of(state.flat).astype(float) @ pair.a_of(state.flat) for pair in geometry.pairs]
    before = blueprint.initial
    return [state[slot.name].astype(float) - before[slot.name] for slot in state.layout.slots if len(slot.shape) == 2]


PARTS: dict[str, Callable[[str, tuple[int, ...], int], list[dict[str, object]]]] = {
    part.__name__: part for part in (rates, ranks, forgetting, formats, spectrum, sizes, memory)
}
STEPS = {"rates": 100, "ranks": 200, "forgetting": 200, "formats": 100, "spectrum": 100, "sizes": 0, "memory": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--base", default="", help="tiny, but for memory")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ranks", default="", help="only these ranks, for the part ranks")
    parser.add_argument("--steps", type=int, default=0, help="instead of the part's own number")
    options = parser.parse_args()
    base = options.base or ("smollm2-135m" if options.part == "memory" else "tiny")
    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    name = options.part if base == "tiny" or options.part in ("memory", "sizes") else f"{options.part}-{base}"
    path = HERE / f"results-{name}.json"
    for seed in seeds[:1] if options.part in ("memory", "sizes") else seeds:
        steps = options.steps or STEPS[options.part]
        if options.ranks:
            rows = ranks(base, (seed,), steps, tuple(int(rank) for rank in options.ranks.split(",")))
        else:
            rows = PARTS[options.part](base, (seed,), steps)
        done = {(row.get("seed"), row.get("rank") if options.part == "ranks" else None) for row in rows}
        kept = json.loads(path.read_text()) if path.exists() else []
        kept = [
            row
            for row in kept
            if "seed" in row and (row["seed"], row.get("rank") if options.part == "ranks" else None) not in done
        ]
        rows = [*kept, *rows]
        path.write_text(json.dumps(rows, indent=0) + "\n")


if __name__ == "__main__":
    main()
