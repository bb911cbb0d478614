"""A step over a base in four or eight bits on a CPU: peak resident memory and time, beside the same base in bfloat16.

    python -m simulations.bench.four_bits_cpu --directory DIR

The base has random weights in the shape of one of the configs that come with plait. Every way has a process of its own;
they take turns, a step each. Time is the processor's, of all threads, which other processes on the machine change
little (waiting threads sleep), and beside it what the clock on the wall says.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from plait import machine

if TYPE_CHECKING:
    from plait.adapters import AdapterSpec, AdapterState
    from plait.training.resident import ResidentBase

ALL = 1 << 30


@dataclass(frozen=True)
class Way:
    """How the base is held, and what a step gives up.

    Attributes:
        method: plait's adapter method.
        recomputed: how many of the first blocks are computed twice.
        eight_bits: whether it is in eight bits.
    """

    method: str
    recomputed: int
    eight_bits: bool = False


WAYS: Mapping[str, Way] = {
    "bfloat16": Way("lora", 0),
    "bfloat16, blocks computed twice": Way("lora", ALL),
    "four bits, blocks computed twice": Way("qlora", ALL),
    "eight bits, blocks computed twice": Way("lora", ALL, eight_bits=True),
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


def write_random_base(name: str, directory: Path, *, part: int, seed: int) -> None:
    """A base of this shape with random weights in bfloat16, unless it is there already.

    Args:
        name: of the config.
        directory: to write to.
        part: the base has one block and one word of so many.
        seed: of the weights.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from plait.training.bases import locate_config

    if (directory / "model.safetensors").is_file():
        return
    directory.mkdir(parents=True, exist_ok=True)
    source = locate_config(name)
    config = json.loads((source / "config.json" if source.is_dir() else source).read_text())
    config["num_hidden_layers"] //= part
    config["vocab_size"] //= part
    (directory / "config.json").write_text(json.dumps(config))
    read = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read, trust_remote_code=False)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        key: torch.ones(x.shape, dtype=torch.bfloat16)
        if x.ndim == 1
        else torch.empty(x.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        for key, x in model.named_parameters()
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True)
class Step:
    """A step that was taken.

    Attributes:
        processor_s: of all threads.
        wall_s: on the clock.
        peak_rss_bytes: of the process so far.
    """

    processor_s: float
    wall_s: float
    loss: float
    peak_rss_bytes: int


# The base of this process, the adapter's specification, and its values so far.
_HELD: dict[Way, tuple[ResidentBase, AdapterSpec, AdapterState]] = {}


def _step(work: Work, way: Way) -> Step:
    """Take the next step."""
    import torch

    from plait.adapters import AdapterState, Task
    from plait.adapters.methods import AdapterRequest
    from plait.training.blueprint import design, read_base_config
    from plait.training.device import Compute, use_threads
    from plait.training.examples import Example
    from plait.training.learner import TrainingInputs
    from plait.training.resident import ResidentBase, adapter_parameters
    from plait.training.step_memory import StepMemory
    from plait.training.trainer import train_steps
    from plait.wire.settings import Settings

    use_threads(work.threads)
    config = read_base_config(work.directory, Task.CAUSAL_LM)
    if way not in _HELD:
        request = AdapterRequest(method=way.method, rank=work.rank, alpha=2.0 * work.rank)
        made = design(config, request, task=Task.CAUSAL_LM, seed=work.seed)
        compute = Compute(torch.device("cpu"), torch.bfloat16, way.eight_bits)
        base = ResidentBase(work.directory, "00" * 32, compute, seq_len=work.tokens)
        _HELD[way] = base, made.spec, made.initial
    base, spec, state = _HELD[way]
    rows = np.random.default_rng(work.seed).integers(0, config.vocab_size, (work.sequences, work.tokens))
    examples = [Example(row, row) for row in rows.astype(np.int32)]
    settings = Settings(
        local_steps=1, batch_size=work.sequences, gradient_accumulation_steps=1, seq_len=work.tokens,
        learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=1,
        seed=work.seed,
    )  # fmt: skip
    losses: list[float] = []
    model = base.carrying(spec, state)
    started, worked = time.perf_counter(), time.process_time()
    done = train_steps(
        model,
        adapter_parameters(model, spec.layout),
        TrainingInputs(examples, settings, state.flat),
        task=Task.CAUSAL_LM,
        pad_token=0,
        memory=StepMemory(recomputed=way.recomputed),
        on_step=lambda _, loss: losses.append(loss),
    )
    taken, work_s = time.perf_counter() - started, time.process_time() - worked
    _HELD[way] = base, spec, AdapterState(spec.layout, done.flat)
    return Step(work_s, taken, losses[0], machine.peak_rss_bytes())


def main(
    directory: Annotated[Path, typer.Option("--directory", help="Where the base is written, 2.5 GB for 1B.")],
    shape: Annotated[str, typer.Option("--shape", help="A config that comes with plait.")] = "llama-3.2-1b",
    part: Annotated[int, typer.Option("--part", min=1, help="Of the blocks and words only one in so many.")] = 1,
    sequences: Annotated[int, typer.Option("--sequences", min=1, help="In a step.")] = 1,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="In a sequence.")] = 512,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Of the adapter.")] = 16,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of each process.")] = 2,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Steps of each way that count.")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights, adapter and tokens.")] = 0,
    only: Annotated[list[str] | None, typer.Option("--only", help="A way to measure; all by default.")] = None,
) -> None:
    """Print one JSON object for every way."""
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # before any process begins
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as writer:
        writer.submit(write_random_base, shape, directory, part=part, seed=seed).result()
    work = Work(directory, sequences, tokens, rank, threads, seed)
    ways = {name: way for name, way in WAYS.items() if not only or name in only}
    pools = {name: ProcessPoolExecutor(1, mp_context=spawn) for name in ways}
    found: dict[str, list[Step]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name in ways if repetition % 2 else reversed(ways):
            step = pools[name].submit(_step, work, ways[name]).result()
            found[name].append(step)
            typer.echo(f"{name}: {step}", err=True)
    for name, steps in found.items():
        pools[name].shutdown()
        counted = steps[1:]  # the first one builds kernels and touches memory
        line = {
            "way": name,
            "processor_s": round(statistics.median(step.processor_s for step in counted), 2),
            "wall_s": round(statistics.median(step.wall_s for step in counted), 2),
            "peak_rss_mb": round(max(step.peak_rss_bytes for step in steps) / 1e6),
            "losses": [round(step.loss, 4) for step in steps],
            "steps": len(counted),
        }
        about = {
            "shape": shape,
            "sequences": sequences,
            "tokens": tokens,
            "rank": rank,
            "threads": threads,
            "seed": seed,
        }
        typer.echo(json.dumps(line | about))


if __name__ == "__main__":
    typer.run(main)
