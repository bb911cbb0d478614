"""What differential privacy of records rests on, each through a client's own training steps and its account.

No record moves a step by more than the clip norm, the noise has the promised size, batches are Poisson samples, noise
is never used for other gradients, whatever was killed in between, and no client gets more than the budget has room for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scoreboard.row import Row
from torch import nn

from plait.errors import PolicyError
from plait.privacy.record import Charge, RecordPrivacy, charge
from plait.rounds.memory import DiskMemory
from plait.training import private_steps
from plait.training.examples import Example
from plait.training.learner import Learner, TrainingInputs
from plait.wire.settings import Settings

SIZE, RECORDS, BATCH, NOISE, CLIP = 20_000, 100, 20, 1.5, 0.5
RUN_ID = b"r" * 16
EXAMPLES = [Example(np.arange(2, dtype=np.int32), np.arange(2, dtype=np.int32)) for _ in range(RECORDS)]


def run(*, full: bool, scratch: Path) -> Row:
    claims = (_size(), _reach(), _samples(steps=2000 if full else 400), _noise_of(scratch), _budget(scratch))
    found = [complaint for claim in claims for complaint in claim]
    return Row.of("privacy of records", found, least=14)


def _privacy(batch: int = BATCH) -> RecordPrivacy:
    return RecordPrivacy(RECORDS, batch, NOISE, 1e-5, float("inf"), CLIP)


def _steps(gradient_of, *, batch: int = BATCH, steps: int = 1, size: int = SIZE) -> tuple[list[np.ndarray], list[int]]:
    """The noised gradients of real steps on made-up gradients of records, and how many records each step drew."""
    taken: list[np.ndarray] = []
    drawn: list[int] = []

    class MadeUp:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __call__(self, examples):
            drawn.append(len(examples))
            for example in examples:
                yield gradient_of(next(index for index, each in enumerate(EXAMPLES) if each is example))

    settings = Settings(
        local_steps=steps, batch_size=batch, gradient_accumulation_steps=1, seq_len=8, learning_rate=0.1,
        weight_decay=0.0, max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=4, seed=1,
    )  # fmt: skip
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(torch.zeros(size)))
    made, private_steps.ExampleGradients = private_steps.ExampleGradients, MadeUp
    step, Learner.noised_step = Learner.noised_step, lambda _, gradient: taken.append(gradient.copy())
    finish, Learner.finish = Learner.finish, lambda *_: None
    try:
        private_steps.train_privately(
            model, [model.weight], TrainingInputs(EXAMPLES, settings, np.zeros(size, np.float32)),
            Charge(_privacy(batch), b"k" * 32, 0.0),
        )  # fmt: skip
    finally:
        private_steps.ExampleGradients, Learner.noised_step, Learner.finish = made, step, finish
    return taken, drawn


def _size() -> Iterator[str]:
    promised = NOISE * CLIP / BATCH
    taken, _ = _steps(lambda _: np.zeros(SIZE, np.float32), steps=3)
    for gradient in taken:
        found = float(gradient.astype(np.float64).std())
        is_right = abs(found / promised - 1) < 0.05
        yield "" if is_right else f"noise of {found:.3g} a number, {promised:.3g} promised"
    apart = abs(float(np.corrcoef(taken[0], taken[1])[0, 1]))
    yield "" if apart < 0.05 else "noise of another step is the same"


def _reach() -> Iterator[str]:
    """The same steps, noise and samples with one record's gradient and without it."""
    rest = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    for length in (1e-3, 1.0, 1e6):
        own = np.ones(SIZE, np.float32) * np.float32(length / SIZE**0.5)
        with_it, without = (
            _steps(lambda index, first=first: first if index == 0 else rest, batch=RECORDS)[0][0]
            for first in (own, np.zeros_like(own))
        )
        moved = RECORDS * float(np.linalg.norm((with_it - without).astype(np.float64)))
        yield "" if moved <= CLIP * 1.001 else f"a record moves the sum by {moved:.3g}, expected {CLIP:g}"


def _samples(*, steps: int) -> Iterator[str]:
    _, drawn = _steps(lambda _: np.zeros(4, np.float32), steps=steps, size=4)
    wanted = RECORDS * (BATCH / RECORDS) * (1 - BATCH / RECORDS)
    mean, spread = float(np.mean(drawn)), float(np.var(drawn))
    yield "" if abs(mean - BATCH) < 6 * (wanted / steps) ** 0.5 else f"{mean:.3g} records a step, expected {BATCH}"
    yield (
        "" if 0.6 < spread / wanted < 1.6 else f"sizes of batches have variance {spread:.3g}, Poisson ones {wanted:.3g}"
    )


def _noise_of(scratch: Path) -> Iterator[str]:
    """A client that is killed and started anew, asked for the same and for other gradients."""
    keys: dict[bytes, bytes] = {}
    for inputs in (b"round 1", b"round 1", b"round 2", b"round 1 from another adapter", b"round 2"):
        # Nothing is left of the process before but what is on disk.
        paid = charge(DiskMemory(scratch / "a"), _privacy(), run_id=RUN_ID, inputs=inputs, steps=4)
        known = keys.setdefault(inputs, paid.key)
        yield "" if known == paid.key else "the same gradients get other noise"
    yield "" if len(set(keys.values())) == 3 else "noise of other gradients is the same"
    other = charge(DiskMemory(scratch / "b"), _privacy(), run_id=RUN_ID, inputs=b"round 1", steps=4)
    yield "" if other.key != keys[b"round 1"] else "two clients have the same noise"


def _budget(scratch: Path) -> Iterator[str]:
    privacy = RecordPrivacy(RECORDS, BATCH, NOISE, 1e-5, _privacy().epsilon_after(8) * 1.001, CLIP)
    refused = 0
    for inputs in (b"1", b"2", b"2", b"3", b"4"):
        try:
            charge(DiskMemory(scratch / "c"), privacy, run_id=RUN_ID, inputs=inputs, steps=4)
        except PolicyError:
            refused += 1
    yield "" if refused == 2 else f"{2 - refused} rounds beyond the budget"
