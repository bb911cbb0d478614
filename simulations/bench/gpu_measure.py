"""Measures cells of `plait bench gpu` in a process of its own.

    python -m simulations.bench.gpu_measure DEVICE    cells as lines of JSON on stdin, outcomes as lines on stdout

Bases have random weights, made on the device block by block: nothing is downloaded, and no base is there twice.
"""

from __future__ import annotations

import copy
import gc
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from plait.adapters import AdapterTask
from plait.adapters.method import AdapterRequest
from plait.errors import MachineError
from plait.training.bases import locate_config, quiet_libraries
from plait.training.blueprint import AdapterTemplate, design, read_base_config
from plait.training.device import Compute, choose_compute, limit_memory, matrix_gflops, memory_for_steps
from plait.training.examples import Example
from plait.training.learner import TrainingInputs
from plait.training.losses import ALL_BLOCKS, StepMemory, is_out_of_memory
from plait.training.memory_plan import SLACK, ModelSize, Training, peak_bytes, size_of
from plait.training.peft_adapter import attach, peft_config_of
from plait.training.resident import adapter_parameters, load_adapter
from plait.training.trainer import train_steps
from plait.wire.settings import Settings
from simulations.bench.gpu_cells import Cell, Figures, Kind, Outcome, State, model_flops

RANK = 16
_WARM_UP, _STEPS = 3, 5
_SYNCS = frozenset(("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"))
_NO_KERNELS = ("Memcpy", "Memset")
_COPIED_BYTES = 1 << 30
# A second, of dense products in bfloat16, as the maker states it.
_PEAK_FLOPS = {"H100": 989e12, "RTX 4090": 165e12, "AGX Orin": 43e12}


class Skipped(Exception):  # noqa: N818 (it is no error)
    """A cell that this device cannot have; the message says why."""


def main(device: str) -> None:
    """Measure what stdin asks for."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print
    quiet_libraries()
    measure = Measure(choose_compute(device))
    for line in sys.stdin:
        answers.write(measure.outcome(Cell.from_json(line)).to_json() + "\n")
        answers.flush()


def counted(events: Iterable[tuple[str, bool]]) -> tuple[int, int]:
    """Kernels and waits of the host among a profile's events.

    Args:
        events: name of each, and whether it happened on the device.
    """
    kernels = waits = 0
    for name, on_device in events:
        kernels += on_device and not name.startswith(_NO_KERNELS)
        waits += not on_device and name in _SYNCS
    return kernels, waits


@dataclass(frozen=True)
class _Built:
    model: PeftModel
    parameters: Sequence[nn.Parameter]
    made: AdapterTemplate
    config: PretrainedConfig
    size: ModelSize | None


class Measure:
    """Measures on one device; keeps the base that it made last."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._built: _Built | None = None
        self._built_for: tuple[object, ...] = ()

    def outcome(self, cell: Cell) -> Outcome:
        """Measure a cell; never raises."""
        ways: Mapping[Kind, Callable[[Cell], Figures]] = {
            Kind.DEVICE: self._device,
            Kind.SAME: self._same,
            Kind.TRAIN: self._train,
            Kind.MEMORY: self._memory,
        }
        try:
            return Outcome(str(cell), State.DONE, figures=ways[cell.kind](cell))
        except Skipped as reason:
            return Outcome(str(cell), State.SKIPPED, str(reason))
        except Exception as error:  # the next cell is to be measured whatever this one met
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            state = State.SKIPPED if is_out_of_memory(error) else State.FAILED
            return Outcome(str(cell), state, said)
        finally:
            gc.collect()
            if self._on_gpu:
                torch.cuda.empty_cache()

    @property
    def _on_gpu(self) -> bool:
        return self._compute.device.type == "cuda"

    def _device(self, _: Cell) -> Figures:
        device = self._compute.device
        found: dict[str, float | str | bool] = {
            "torch": torch.__version__,
            "dtype": self._compute.dtype_name,
            "tflops": matrix_gflops(self._compute) / 1e3,
            "card": "",
        }
        if self._on_gpu:
            properties = torch.cuda.get_device_properties(device)
            free, total = torch.cuda.mem_get_info(device)
            found |= {
                "card": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory_gb": total / 1e9,
                "free_gb": free / 1e9,
                "cuda": str(torch.version.cuda),
                "copied_gb_per_s": self._bandwidth(),
            }
        return found

    def _bandwidth(self) -> float:
        """Bytes read and written by a copy on the device, in GB a second."""
        source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=self._compute.device)
        target, best = torch.empty_like(source), float("inf")
        for _ in range(5):
            self._wait()
            started = time.perf_counter()
            target.copy_(source)
            self._wait()
            best = min(best, time.perf_counter() - started)
        return 2 * _COPIED_BYTES / best / 1e9

    def _same(self, cell: Cell) -> Figures:
        from simulations.bench.same import checks

        (check,) = (each for each in checks() if each.name == cell.check)
        return {"difference": check.difference(self._compute), "tolerance": check.tolerance}

    def _train(self, cell: Cell) -> Figures:
        built = self._base(cell)
        recomputed = ALL_BLOCKS if cell.twice else 0
        predicted = 0
        if built.size and cell.way == "plait":
            predicted = peak_bytes(built.size, sequences=cell.batch, seq_len=cell.seq_len, recomputed=recomputed)
            room = memory_for_steps(self._compute.device)
            if room and SLACK * predicted > room:
                raise Skipped(f"a step needs {SLACK * predicted / 1e9:.1f} GB, {room / 1e9:.1f} are there")
        step = self._our_step(cell, built, recomputed) if cell.way == "plait" else self._peft_step(cell, built)
        step(_WARM_UP)
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(step(_STEPS))
        tokens = cell.batch * cell.seq_len
        found: dict[str, float | str | bool] = {"tokens_per_s": tokens / seconds}
        if self._on_gpu:
            found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            found["kernels"], found["syncs"] = self._profile(step)
            if predicted:
                found["predicted_gb"] = predicted / 1e9
        if built.size and (peak := self._peak_flops()):
            size = built.size
            multiplied = size.layers * size.matrix + size.words * size.width
            found["mfu"] = model_flops(multiplied, tokens) / seconds / peak
        return found

    def _peak_flops(self) -> float:
        """As the card's maker states it; 0 for a card that is not known."""
        name = torch.cuda.get_device_name(self._compute.device) if self._on_gpu else ""
        return next((flops for card, flops in _PEAK_FLOPS.items() if card in name), 0.0)

    def _profile(self, step: Callable[[int], Sequence[float]]) -> tuple[int, int]:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            step(1)
        return counted((event.name, event.device_type.name == "CUDA") for event in seen.events() or ())

    def _memory(self, cell: Cell) -> Figures:
        if not self._on_gpu:
            raise Skipped("torch limits the memory of CUDA devices alone")
        if torch.cuda.mem_get_info(self._compute.device)[1] < cell.limit_gb * 1e9:
            raise Skipped("the card has less memory than that")
        limit_memory(self._compute.device, int(cell.limit_gb * 1e9))
        memory = StepMemory()  # without a plan: memory runs out
        try:
            built = self._base(cell)
            self._our_step(cell, built, 0, memory)(1)
        except MachineError as error:
            return {"said": str(error)}
        return {
            "gave_way": f"{'blocks twice' if memory.recomputed else 'nothing'}, {memory.cuts} parts",
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        }

    def _our_step(
        self, cell: Cell, built: _Built, recomputed: int, memory: StepMemory | None = None
    ) -> Callable[[int], Sequence[float]]:
        examples = self._examples(cell, built.config)
        settings = Settings(
            local_steps=1, batch_size=cell.batch, gradient_accumulation_steps=1, seq_len=cell.seq_len,
            learning_rate=1e-4, weight_decay=0.0, max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=1,
            seed=0,
        )  # fmt: skip
        memory = memory or StepMemory(recomputed=recomputed)

        def steps(count: int) -> Sequence[float]:
            times = [time.perf_counter()]

            def ended(_step: int, _loss: float) -> None:
                self._wait()
                times.append(time.perf_counter())

            train_steps(
                built.model,
                built.parameters,
                TrainingInputs(examples, replace(settings, local_steps=count), built.made.initial),
                memory=memory,
                on_step=ended,
            )
            return np.diff(times).tolist()

        return steps

    def _peft_step(self, cell: Cell, built: _Built) -> Callable[[int], Sequence[float]]:
        """The loop that PEFT's documentation shows, with Hugging Face's checkpointing."""
        model = built.model.train()
        base = cast("Any", model.get_base_model())
        if cell.twice:
            base.activation_checkpointing_enable({"use_reentrant": False})
            base.enable_input_require_grads()
        else:
            base.activation_checkpointing_disable()
        optimizer = torch.optim.AdamW(built.parameters, lr=1e-4, weight_decay=0)
        rows = np.stack([each.tokens for each in self._examples(cell, built.config)]).astype(np.int64)
        tokens = torch.from_numpy(rows).to(self._compute.device)

        def steps(count: int) -> Sequence[float]:
            times = [time.perf_counter()]
            for _ in range(count):
                loss = model(input_ids=tokens, labels=tokens).loss
                loss.backward()
                nn.utils.clip_grad_norm_(built.parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                loss.item()
                self._wait()
                times.append(time.perf_counter())
            return np.diff(times).tolist()

        return steps

    def _examples(self, cell: Cell, config: PretrainedConfig) -> list[Example]:
        drawn = np.random.default_rng(0).integers(0, config.vocab_size, (cell.batch, cell.seq_len)).astype(np.int32)
        return [Example(row, row.copy()) for row in drawn]

    def _wait(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self._compute.device)

    def _base(self, cell: Cell) -> _Built:
        wanted = (cell.base, cell.four_bits)
        if self._built is None or self._built_for != wanted:
            self._built = None
            gc.collect()
            self._built, self._built_for = self._build(*wanted), wanted
        load_adapter(self._built.model, self._built.made.initial)
        return self._built

    def _build(self, name: str, four_bits: bool) -> _Built:
        config = read_base_config(locate_config(name), AdapterTask.CAUSAL_LM)
        request = AdapterRequest(method="qlora" if four_bits else "lora", rank=RANK, alpha=2 * RANK)
        made = design(config, request, task=AdapterTask.CAUSAL_LM, seed=1)
        at_one_rate = Training(follows_slopes=False)  # as `_our_step` trains
        size = size_of(config, made.spec, value_bytes=self._compute.dtype.itemsize, training=at_one_rate)
        room = memory_for_steps(self._compute.device)
        if size and room and SLACK * size.resident_bytes > room:
            raise Skipped(f"the base needs {SLACK * size.resident_bytes / 1e9:.1f} GB, {room / 1e9:.1f} are there")
        base = random_base(config, self._compute, four_bits=four_bits)
        model = attach(base, peft_config_of(made.spec.peft_config), in_float32=False)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(self._compute.device, self._compute.dtype)
        return _Built(model, adapter_parameters(model, made.spec.layout), made, config, size)


def random_base(config: PretrainedConfig, compute: Compute, *, four_bits: bool) -> Any:
    """A language model with random weights on the device, its blocks made one after the other."""
    one = copy.deepcopy(config)
    one.num_hidden_layers = 1
    before = torch.get_default_dtype()
    torch.set_default_dtype(compute.dtype)
    try:
        with torch.device(compute.device), torch.no_grad():
            model = cast(
                "Any",
                AutoModelForCausalLM.from_config(
                    one, dtype=compute.dtype, attn_implementation=compute.attention(4096), trust_remote_code=False
                ),
            )
            blocks, own = model.model.layers, model.config
            kind = type(blocks[0])
            own.num_hidden_layers = config.num_hidden_layers
            if getattr(own, "layer_types", None):
                own.layer_types = list(cast("Any", config).layer_types)
            for number in range(config.num_hidden_layers):
                block = blocks[0] if number == 0 else kind(own, number)
                if four_bits:
                    _quantise(block, compute)
                if number:
                    blocks.append(block)
    finally:
        torch.set_default_dtype(before)
    model.requires_grad_(False)
    return model


def _quantise(block: nn.Module, compute: Compute) -> None:
    """NF4 with double quantisation, in place."""
    layers = cast("Any", importlib.import_module("bitsandbytes")).nn
    for name, module in list(block.named_modules()):
        if type(module) is nn.Linear:
            biased = "bias" in dict(module.named_parameters())
            packed = layers.Linear4bit(
                module.in_features, module.out_features, biased, compute_dtype=compute.dtype, quant_type="nf4",
                device="meta",
            )  # fmt: skip
            packed.weight = layers.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4").to(
                compute.device
            )
            packed.bias = module.bias
            parent, _, own = name.rpartition(".")
            setattr(block.get_submodule(parent), own, packed)


if __name__ == "__main__":
    main(sys.argv[1])
