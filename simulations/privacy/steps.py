"""What a step of DP-SGD costs beside a plain one: python simulations/privacy/steps.py (see README.md).

The built-in base `tiny` with LoRA, or LoRA-XS, on all linear layers, one thread, processor time of the main thread,
medians over steps after two for warming up. Per-example gradients: plait's fused ones, one example after another
through PEFT's own modules, and Opacus' (`pip install opacus`, left out where it is not installed, and for LoRA-XS). A
plain step is plait's own trainer's.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from plait.adapters import Task  # noqa: E402
from plait.adapters.methods import AdapterRequest  # noqa: E402
from plait.features.privacy.record import Charge, RecordPrivacy  # noqa: E402
from plait.features.privacy.training import private_steps  # noqa: E402
from plait.features.privacy.training.private_steps import train_privately  # noqa: E402
from plait.training import losses  # noqa: E402
from plait.training.bases import locate_base  # noqa: E402
from plait.training.blueprint import design, read_base_config  # noqa: E402
from plait.training.device import Compute  # noqa: E402
from plait.training.examples import Example  # noqa: E402
from plait.training.learner import TrainingInputs  # noqa: E402
from plait.training.resident import ResidentBase, adapter_parameters  # noqa: E402
from plait.training.trainer import train_steps  # noqa: E402
from plait.wire.settings import Settings  # noqa: E402

BATCH, LENGTH, STEPS, WARM = 16, 128, 9, 2


METHODS = {"LoRA": AdapterRequest(rank=8, alpha=16), "LoRA-XS": AdapterRequest("lora_xs", rank=16)}


def main() -> None:
    torch.set_num_threads(1)
    found = {
        "batch": BATCH,
        "length": LENGTH,
        "torch": torch.__version__.split("+")[0],
        **{name: measured(request) for name, request in METHODS.items()},
    }
    (HERE / "steps.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def measured(request: AdapterRequest) -> dict[str, object]:
    """Every way to take a step, in turn."""
    located = locate_base("tiny")
    base = ResidentBase(
        located.directory, located.reference.fingerprint, Compute(torch.device("cpu"), torch.float32), seq_len=LENGTH
    )
    blueprint = design(
        read_base_config(located.directory, Task.CAUSAL_LM),
        request,
        task=Task.CAUSAL_LM,
        seed=1,
    )
    generator = np.random.default_rng(0)
    tokens = [generator.integers(3, 2000, LENGTH).astype(np.int32) for _ in range(BATCH)]
    rows = [Example(row, row) for row in tokens]
    settings = Settings(
        local_steps=1, batch_size=BATCH, gradient_accumulation_steps=1, seq_len=LENGTH, learning_rate=1e-3,
        weight_decay=0.0, max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=1, seed=1,
    )  # fmt: skip
    model = base.carrying(blueprint.spec, blueprint.initial)
    parameters = adapter_parameters(model, blueprint.spec.layout)
    start = blueprint.initial.flat
    # The whole batch in every step, so that all ways do the same work.
    privacy = RecordPrivacy(records=BATCH, batch=BATCH, noise=1.0, delta=1e-5, epsilon=float("inf"), clip_norm=None)
    inputs = TrainingInputs(rows, settings, start)

    def plain() -> None:
        train_steps(model, parameters, TrainingInputs(rows, settings, start), task=Task.CAUSAL_LM, pad_token=0)

    def plain_by_modules() -> None:
        with by_peft():
            plain()

    def private() -> None:
        train_privately(model, parameters, inputs, Charge(privacy, bytes(32), 0.0), task=Task.CAUSAL_LM, pad_token=0)

    def by_modules() -> None:
        with by_peft():
            private()

    ways: dict[str, Callable[[], None]] = {
        "plain": plain,
        "plain, PEFT": plain_by_modules,
        "private, fused": private,
        "private, PEFT": by_modules,
    }
    if request.method != "lora_xs" and (step := opacus_step(base, blueprint, tokens)):
        ways["Opacus"] = step
    taken: dict[str, list[float]] = {name: [] for name in ways}
    # In turn, so that a busy machine slows all of them.
    for _ in range(STEPS + WARM):
        for name, work in ways.items():
            begun = time.thread_time()
            work()
            taken[name].append(time.thread_time() - begun)
    medians = {name: statistics.median(each[WARM:]) for name, each in taken.items()}
    found: dict[str, object] = {"parameters": blueprint.spec.layout.size}
    for name, seconds in medians.items():
        found[name] = {"ms": round(1000 * seconds, 1), "times plain": round(seconds / medians["plain"], 2)}
    return found


@contextmanager
def by_peft() -> Iterator[None]:
    """PEFT's own modules compute everything, single examples one after another."""
    places = (private_steps, losses)
    real = [place.recognise for place in places]
    for place in places:
        place.recognise = lambda _: None
    try:
        yield
    finally:
        for place, recognise in zip(places, real, strict=True):
            place.recognise = recognise


def opacus_step(base: ResidentBase, blueprint: object, tokens: list[np.ndarray]) -> Callable[[], None] | None:
    """The same step with Opacus: gradients of all examples, clipped and noised; None where it is not installed."""
    try:
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer
    except ImportError:
        return None
    other = ResidentBase(base.directory, base.fingerprint.hex(), base.compute, seq_len=LENGTH)
    model = other.carrying(blueprint.spec, blueprint.initial).train()
    wrapped = GradSampleModule(model)
    trainable = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = DPOptimizer(
        torch.optim.AdamW(trainable, lr=1e-3), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=BATCH
    )
    batch = torch.from_numpy(np.stack(tokens).astype(np.int64))

    def step() -> None:
        optimizer.zero_grad()
        logits = wrapped(input_ids=batch, use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
        )
        losses.view(BATCH, -1).mean(dim=1).mean().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
