"""Whether a device computes what the CPU computes, on the tiny base: training, evaluation, generation, whole runs.

Each check is a calculation whose result is an array; it is done on both devices and compared. Knows no benchmark.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from plait.adapters import AdapterState, AdapterTask
from plait.adapters.method import AdapterRequest
from plait.adapters.methods import METHODS, is_quantised
from plait.data import Message, Record, RecordKind
from plait.rounds.local_model import TrainJob
from plait.training.bases import locate_base
from plait.training.blueprint import AdapterTemplate, design, read_base_config
from plait.training.device import Compute
from plait.training.examples import IGNORED, Example
from plait.training.generate import Sampling, Wanted, generate
from plait.training.learner import TrainingInputs
from plait.training.local_model import PeftLocalModel
from plait.training.losses import StepMemory
from plait.training.resident import ResidentBase, adapter_parameters, read_adapter
from plait.training.trainer import measure_losses, train_steps
from plait.wire.settings import Settings

Array = NDArray[np.float64]
Calculation = Callable[[Compute], Array]

SETTINGS = Settings(
    local_steps=2, batch_size=2, gradient_accumulation_steps=2, seq_len=32, learning_rate=1e-3, weight_decay=0.01,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=4, seed=5,
)  # fmt: skip
_CLOSE = 1e-4
_WIDER: Mapping[str, float] = {
    # Gradients are rounded to a grid before noise is added, so a rounding may become a whole step of the grid.
    "private records": 2e-3,
}
_QUANTISED = 2e-2  # bitsandbytes' kernels differ by device
RULES = ("fedavg", "fedsvd", "fedsb")
"""One rule of each kind that reaches the device: the adapter changes alone, or the base moves, or another method."""


@dataclass(frozen=True)
class Check:
    """A calculation.

    Attributes:
        name: for people.
        calculate: what is compared.
        tolerance: largest difference of any number.
    """

    name: str
    calculate: Calculation
    tolerance: float = _CLOSE

    def difference(self, compute: Compute) -> float:
        """The largest difference between this device and the CPU, in float32."""
        here, there = (
            self.calculate(Compute(device, torch.float32)) for device in (torch.device("cpu"), compute.device)
        )
        if here.shape != there.shape:
            return float("inf")
        return float(np.abs(here - there).max())


def checks() -> Sequence[Check]:
    """All of them."""
    methods = (
        Check(f"method {name}", partial(_method, name), _QUANTISED if is_quantised(name) else _CLOSE)
        for name in METHODS
    )
    rules = (Check(f"run with rule {rule}", partial(_run, rule)) for rule in RULES)
    return (
        *methods,
        *(Check(name, calculate, _WIDER.get(name, _CLOSE)) for name, calculate in _OTHERS.items()),
        *rules,
    )


def rows(count: int = 6, *, even: bool = False) -> list[Example]:
    """Sequences of different lengths, of whose tokens the first do not count."""
    generator = np.random.default_rng(0)
    lengths = [32 if even else int(length) for length in generator.integers(17, 33, count)]
    drawn = [generator.integers(3, 2000, length).astype(np.int32) for length in lengths]
    return [Example(tokens, np.where(np.arange(len(tokens)) < 9, IGNORED, tokens).astype(np.int32)) for tokens in drawn]


@dataclass(frozen=True)
class _Client:
    base: ResidentBase
    made: AdapterTemplate

    @classmethod
    def of(cls, compute: Compute, method: str = "lora", *, task: AdapterTask = AdapterTask.CAUSAL_LM) -> _Client:
        tiny = locate_base("tiny")
        labels = ("good", "bad") if task is AdapterTask.CLASSIFICATION else ()
        config = read_base_config(tiny.directory, task, labels)
        request = AdapterRequest(method=method, rank=4, alpha=8.0)
        made = design(config, request, task=task, labels=labels, seed=1, weights=tiny.directory)
        base = ResidentBase(tiny.directory, tiny.reference.fingerprint, compute, seq_len=1024)
        return cls(base, made)

    def trained(
        self, examples: Sequence[Example], *, settings: Settings = SETTINGS, memory: StepMemory | None = None
    ) -> Array:
        """The adapter after training, its losses, and what is read back."""
        spec, initial = self.made.spec, self.made.initial
        model = self.base.with_adapter(spec, initial)
        done = train_steps(
            model,
            adapter_parameters(model, spec.layout),
            TrainingInputs(examples, settings, initial, task=spec.task),
            memory=memory,
        )
        found = measure_losses(model, examples, task=spec.task, batch_size=3)
        return _flat(done.state.flat, np.divide(found.losses, found.counts), read_adapter(model, initial).flat)


def _method(name: str, compute: Compute) -> Array:
    return _Client.of(compute, name).trained(rows())


def _classification(compute: Compute) -> Array:
    labelled = [replace(example, labels=np.array([number % 2], np.int32)) for number, example in enumerate(rows())]
    return _Client.of(compute, task=AdapterTask.CLASSIFICATION).trained(labelled)


def _with_less_memory(compute: Compute) -> Array:
    return _Client.of(compute).trained(rows(), memory=StepMemory(recomputed=2, cuts=2))


def _found_rate(compute: Compute) -> Array:
    return _Client.of(compute).trained(rows(even=True), settings=replace(SETTINGS, learning_rate=0.0))


def _private(compute: Compute) -> Array:
    client = _Client.of(compute)
    spec, initial = client.made.spec, client.made.initial
    model = client.base.with_adapter(spec, initial)
    from plait.privacy.client import Charge, RecordPrivacy
    from plait.training.private_steps import train_privately

    privacy = RecordPrivacy(records=6, batch=4, noise=2e-4, delta=1e-5, epsilon=float("inf"), clip_norm=0.5)
    done = train_privately(
        model, adapter_parameters(model, spec.layout), TrainingInputs(rows(), SETTINGS, initial),
        Charge(privacy, b"k" * 32, 0.0),
    )  # fmt: skip
    return _flat(done.state.flat)


def _preferences(compute: Compute) -> Array:
    pairs = [
        Record(
            messages=(Message("user", f"is {number}?"),),
            chosen=(Message("assistant", f"yes {number}"),),
            rejected=(Message("assistant", f"no {number}"),),
        )
        for number in range(12)
    ]
    client = _Client.of(compute)
    local = PeftLocalModel(client.base, "ada", pairs, kind=RecordKind.PREFERENCE, histogram={})
    settings = replace(SETTINGS, objective="dpo")
    done = local.train(_job(local, client.made, settings))
    losses = local.evaluate(client.made.spec, done.state, settings)
    return _flat(done.state.flat, losses.losses)


def _generation(compute: Compute) -> Array:
    client = _Client.of(compute)
    model = client.base.with_adapter(client.made.spec, _moved(client.made)).eval()
    encode = cast("Any", client.base.tokenizer)
    prompts = [tuple(encode("def add(left, right):\n    return"[: 12 + 10 * each])["input_ids"]) for each in range(3)]
    whole = cast("PreTrainedModel", model.get_base_model())
    found: list[int] = []
    for temperature in (0.0, 0.7):
        wanted = [Wanted(prompt, 8, seed) for seed, prompt in enumerate(prompts)]
        for tokens in generate(whole, client.base.tokenizer, wanted, Sampling(temperature)):
            found += tokens
    return _flat(found)


def _run(rule: str, compute: Compute) -> Array:
    import plait

    data = [{"text": f"the number {number} is followed by {number + 1}. " * 8, "who": "ab"[number % 2]}
            for number in range(16)]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = plait.simulate(
            data, partition="natural:who", base="tiny", rule=rule, clients=2, rounds=2, out=Path(folder) / "run",
            device=str(compute.device), dtype="float32", seq_len=32, batch_size=2, local_steps=2, rank=4,
            learning_rate=1e-3, bits="fp32", quiet=True,
            method="lora_xs" if rule == "fedsb" else "lora",
        )  # fmt: skip
        return _flat(run.losses["loss"].to_numpy())


_OTHERS: Mapping[str, Calculation] = {
    "classification": _classification,
    "blocks twice and batches in parts": _with_less_memory,
    "the learning rate that is found": _found_rate,
    "private records": _private,
    "preferences": _preferences,
    "generation": _generation,
}


def _moved(made: AdapterTemplate) -> AdapterState:
    """An adapter that changes the model."""
    noise = np.random.default_rng(7).normal(scale=0.1, size=made.initial.layout.size)
    return AdapterState(made.initial.layout, (made.initial.flat + noise).astype(np.float32))


def _job(local: PeftLocalModel, made: AdapterTemplate, settings: Settings) -> TrainJob:
    return TrainJob(local, made.spec, settings, made.initial, made.initial)


def _flat(*parts: object) -> Array:
    return np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])
