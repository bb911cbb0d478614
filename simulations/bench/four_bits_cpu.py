"""A training step over a base in four bits on a CPU: peak resident memory and time, beside the same base in bfloat16.

    python -m simulations.bench.four_bits_cpu --directory DIR

The base has random weights in the shape of one of the configs that come with plait. Every way has a process of its own;
they take turns, a step each.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from plait import machine

ALL = 1 << 30


@dataclass(frozen=True)
class Way:
    """How the base is held, and what a step gives up.

    Attributes:
        method: plait's adapter method.
        recomputed: how many of the first blocks are computed twice.
    """

    method: str
    recomputed: int


WAYS: Mapping[str, Way] = {
    "bfloat16": Way("lora", 0),
    "bfloat16, blocks computed twice": Way("lora", ALL),
    "four bits, blocks computed twice": Way("qlora", ALL),
}


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        directory: of the base.
        sequences: in a step.
        tokens: in a sequence.
    """

    directory: Path
    sequences: int
    tokens: int
    rank: int
    threads: int
    seed: int


def write_random_base(name: str, directory: Path, *, seed: int) -> None:
    """A base of this shape with random weights in bfloat16, unless it is there already."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from plait.training.bases import locate_config

    if (directory / "model.safetensors").is_file():
        return
    directory.mkdir(parents=True, exist_ok=True)
    source = locate_config(name)
    shutil.copy(source / "config.json" if source.is_dir() else source, directory / "config.json")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), trust_remote_code=False)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        key: torch.ones(x.shape, dtype=torch.bfloat16)
        if x.ndim == 1
        else torch.empty(x.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        for key, x in model.named_parameters()
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


_STEPS: dict[Way, object] = {}


def _step(work: Work, way: Way) -> tuple[float, float, int]:
    """Seconds of a step, its loss, and the process's peak memory so far."""
    import torch

    from plait.adapters import AdapterState, Task
    from plait.adapters.methods import AdapterRequest
    from plait.training.blueprint import design, read_base_config
    from plait.training.device import Compute, use_threads
    from plait.training.examples import Example
    from plait.training.resident import ResidentBase, adapter_parameters
    from plait.training.step_memory import StepMemory
    from plait.training.trainer import train_steps
    from plait.wire.settings import Settings

    use_threads(work.threads)
    config = read_base_config(work.directory, Task.CAUSAL_LM)
    if way not in _STEPS:
        request = AdapterRequest(method=way.method, rank=work.rank, alpha=2.0 * work.rank)
        made = design(config, request, task=Task.CAUSAL_LM, seed=work.seed)
        compute = Compute(torch.device("cpu"), torch.bfloat16)
        base = ResidentBase(work.directory, "00" * 32, compute, seq_len=work.tokens)
        _STEPS[way] = base, made.spec, made.initial
    base, spec, state = _STEPS[way]  # pyright: ignore[reportGeneralTypeIssues]
    rows = np.random.default_rng(work.seed).integers(0, config.vocab_size, (work.sequences, work.tokens))
    examples = [Example(row, row) for row in rows.astype(np.int32)]
    settings = Settings(
        local_steps=1, batch_size=work.sequences, gradient_accumulation_steps=1, seq_len=work.tokens,
        learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=1,
        seed=work.seed,
    )  # fmt: skip
    losses: list[float] = []
    model = base.carrying(spec, state)
    started = time.perf_counter()
    done = train_steps(
        model,
        adapter_parameters(model, spec.layout),
        examples,
        settings,
        start=state.flat,
        task=Task.CAUSAL_LM,
        pad_token=0,
        memory=StepMemory(recomputed=way.recomputed),
        on_step=lambda _, loss: losses.append(loss),
    )
    taken = time.perf_counter() - started
    _STEPS[way] = base, spec, AdapterState(spec.layout, done.flat)
    return taken, losses[0], machine.peak_rss_bytes()


def main(
    directory: Annotated[Path, typer.Option("--directory", help="Where the base is written, 2.5 GB for 1B.")],
    shape: Annotated[str, typer.Option("--shape", help="A config that comes with plait.")] = "llama-3.2-1b",
    sequences: Annotated[int, typer.Option("--sequences", min=1, help="In a step.")] = 1,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="In a sequence.")] = 512,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Of the adapter.")] = 16,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of each process.")] = 2,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Steps of each way that count.")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights, adapter and tokens.")] = 0,
) -> None:
    """Print one JSON object for every way."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as writer:
        writer.submit(write_random_base, shape, directory, seed=seed).result()
    work = Work(directory, sequences, tokens, rank, threads, seed)
    pools = {name: ProcessPoolExecutor(1, mp_context=spawn) for name in WAYS}
    found = {name: [] for name in WAYS}
    for repetition in range(repetitions + 1):
        for name in WAYS if repetition % 2 else reversed(WAYS):
            found[name].append(pools[name].submit(_step, work, WAYS[name]).result())
    for name, steps in found.items():
        pools[name].shutdown()
        seconds = [taken for taken, _, _ in steps[1:]]  # the first one builds kernels and touches memory
        line = {
            "way": name,
            "median_s": round(statistics.median(seconds), 2),
            "seconds": [round(each, 2) for each in seconds],
            "peak_rss_mb": round(max(peak for _, _, peak in steps) / 1e6),
            "losses": [round(loss, 4) for _, loss, _ in steps],
        }
        print(json.dumps(line | {"shape": shape, "sequences": sequences, "tokens": tokens, "rank": rank, "seed": seed}))


if __name__ == "__main__":
    typer.run(main)
