"""``plait doctor --base``: how a training step on a base would fit into memory, and what would if it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plait.adapters import AdapterTask
from plait.adapters.method import AdapterRequest
from plait.cli.doctor import Finding, JsonOutput, show
from plait.errors import ConfigError
from plait.report.progress import status
from plait.system import machine
from plait.training.bases import locate_config, quiet_libraries

if TYPE_CHECKING:
    from plait.training.memory_plan import ModelSize, StepPlan


def fits(
    base: Annotated[str, typer.Option("--base", help="Name or directory of the base.")],
    method: Annotated[str, typer.Option("--method", help="lora, or qlora for a base in four bits.")] = "lora",
    rank: Annotated[int, typer.Option("--rank", min=1, help="rank of the adapter.")] = 16,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="sequences of a batch.")] = 4,
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help="tokens of a sequence.")] = 1024,
    max_memory_gb: Annotated[
        float, typer.Option("--max-memory-gb", min=0, help="memory to plan for; 0 for this machine's.")
    ] = 0.0,
    device: Annotated[
        str,
        typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps."),
    ] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    json_output: JsonOutput = False,
) -> None:
    """Show how a training step on a base would fit into memory, and what would if it does not.

    Example: plait doctor --base llama-3.1-8b --method qlora --seq-len 2048 --max-memory-gb 12
    """
    with status(f"checking {base}", quiet=json_output):
        findings = _plan(
            base, method=method, rank=rank, batch_size=batch_size, seq_len=seq_len,
            memory_bytes=int(max_memory_gb * 1e9), device=device, dtype=dtype,
        )  # fmt: skip
    show(findings, json_output=json_output)


def _plan(
    base: str,
    *,
    method: str,
    rank: int,
    batch_size: int,
    seq_len: int,
    memory_bytes: int,
    device: str,
    dtype: str,
) -> list[Finding]:
    """How a training step on a base would fit into memory.

    Raises:
        ConfigError: no such base, method, device or type, or memory cannot be predicted for it.
    """
    from plait.training.blueprint import design, read_base_config
    from plait.training.device import choose_compute, has_memory_of_its_own, memory_for_steps
    from plait.training.memory_plan import plan_step, size_of, what_would_fit

    quiet_libraries()
    compute = choose_compute(device, dtype)
    config = read_base_config(locate_config(base), AdapterTask.CAUSAL_LM)
    spec = design(config, AdapterRequest(method=method, rank=rank), task=AdapterTask.CAUSAL_LM, seed=0).spec
    # A stated amount is taken for a card's, where there is no GPU to ask.
    stated_card = bool(memory_bytes) and device == "auto" and compute.device.type == "cpu"
    on_cpu = compute.device.type == "cpu" and not stated_card
    size = size_of(config, spec, value_bytes=compute.dtype.itemsize, on_cpu=on_cpu, seq_len=seq_len)
    if size is None:
        raise ConfigError(
            "memory is predicted for lora and qlora without dropout on bases like Llama, for sequences within the "
            f"window of their attention, not for '{method}' on a base of type {config.model_type} at {seq_len} tokens; "
            "start with a small --batch-size"
        )
    budget = memory_for_steps(compute.device, memory_bytes) or machine.memory_bytes()
    host = stated_card or has_memory_of_its_own(compute.device)
    plan = plan_step(size, batch=batch_size, seq_len=seq_len, budget=budget, host_has_room=host)
    fitting = "" if plan.fits else what_would_fit(size, seq_len=seq_len, budget=budget, host_has_room=host)
    held = "NF4 and " if size.four_bits else ""
    return [
        Finding("base", f"{base} in {held}{compute.dtype_name}, {size.base_bytes / 1e9:.2f} GB"),
        Finding(
            "adapter",
            f"rank {rank}, {size.adapter:,} parameters, {size.resident_bytes / 1e9:.2f} GB with the base"
            + (" and the libraries" if on_cpu else ""),
        ),
        Finding("memory", f"{budget / 1e9:.1f} GB of {'the stated device' if memory_bytes else compute.device}"),
        Finding("batch", f"{batch_size} x {seq_len}" + (f", in {plan.cuts} parts" if plan.cuts > 1 else "")),
        *_of_plan(plan, size, host=host, fitting=fitting),
    ]


def _of_plan(plan: StepPlan, size: ModelSize, *, host: bool, fitting: str) -> list[Finding]:
    """What a step gives up, and its peak."""
    where = "in the host's memory" if plan.embedding_on_host else "on the device"
    if host and not size.lone_embedding:
        where += ", with the head: they are one matrix" if size.tied else ": the adapter changes it"
    return [
        Finding("blocks computed twice", f"{plan.recomputed} of {size.layers}"),
        Finding("logits at a time", f"{plan.slice_elements / 1e6:.0f} million"),
        Finding("input embedding", f"{size.embedding_bytes / 1e9:.2f} GB, {where}"),
        Finding(
            "predicted peak",
            f"{plan.peak_bytes / 1e9:.2f} GB" + ("" if plan.fits else ", does not fit"),
            f"what would fit: {fitting}" if fitting else "",
        ),
    ]
