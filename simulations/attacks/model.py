"""A client of the experiment: LoRA on a linear classifier over frozen sentence vectors, honest or not.

logits = x W^T, W = (alpha / rank) B A. Everything else, messages, validation, rules and ledger, is plait's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from attacks.stories import CLASSES, Stories
from numpy.typing import NDArray

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout
from plait.aggregation import Geometry, geometry_of
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.local_model import Coverage, DataSize, StepReport, Trained, TrainJob
from plait.wire.settings import Settings

RANK, WIDTH, ALPHA = 8, 384, 16
FINGERPRINT = b"m" * 32
SCALE = 10.0  # unit vectors are short for a softmax

Forge = Callable[["Client", AdapterState, AdapterState, Settings], AdapterState]
"""From the client, the adapter received and the one honestly trained to the one that is sent."""


def spec_and_initial() -> tuple[AdapterSpec, AdapterState]:
    """The adapter of every run: B zero, A drawn."""
    layout = Layout.of({"head.lora_A.weight": [RANK, WIDTH], "head.lora_B.weight": [len(CLASSES), RANK]})
    spec = AdapterSpec(
        method="lora",
        peft_config={
            "peft_type": "LORA",
            "task_type": "SEQ_CLS",
            "r": RANK,
            "lora_alpha": ALPHA,
            "target_modules": ["head"],
        },
        task=AdapterTask.CLASSIFICATION,
        labels=CLASSES,
        layout=layout,
        init_seed=0,
    )
    flat = np.zeros(layout.size, np.float32)
    geometry_of(spec).pairs[0].a_of(flat)[:] = np.random.default_rng(0).uniform(-1, 1, (RANK, WIDTH)) / WIDTH**0.5
    return spec, AdapterState(layout, flat)


def logits(x: NDArray[np.float32], flat: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float64]:
    """(n, classes)."""
    pair = geometry.pairs[0]
    inner = SCALE * x.astype(np.float64) @ pair.a_of(flat).astype(np.float64).T
    return pair.scale * inner @ pair.b_of(flat).astype(np.float64).T


@dataclass(frozen=True)
class Client:
    """One client and its stories.

    Attributes:
        stories: its own; one that lies about labels has them here as it trains on them.
        forge: what it sends instead of what it trained; None where it is honest about that.
        claims: how many stories it says that it has; 0 for as many as there are.
    """

    name: str
    stories: Stories
    forge: Forge | None = None
    claims: int = 0
    base_fingerprint: bytes = FINGERPRINT

    def prepare(self, spec_text: str) -> tuple[AdapterSpec, AdapterState]:
        """The one adapter there is."""
        del spec_text
        return spec_and_initial()

    def data_size(self, spec: AdapterSpec, settings: Settings) -> DataSize:
        """Stories, one token each."""
        del spec, settings
        count = self.claims or len(self.stories.y)
        return DataSize(count, count, 1, 1, {})

    def coverage(self, spec: AdapterSpec, settings: Settings) -> Coverage:
        """As many stories as are drawn."""
        del spec
        count = min(len(self.stories.y), settings.local_steps * settings.batch_size)
        return Coverage(count, count)

    def train(self, job: TrainJob) -> Trained:
        """AdamW on batches, then the lie."""
        trained = self.honest(job.spec, job.start, job.settings)
        if self.forge is not None:
            trained = self.forge(self, job.start, trained, job.settings)
        return Trained(trained, StepReport(loss=0.0, tokens=1, seconds=0.0))

    def honest(self, spec: AdapterSpec, state: AdapterState, settings: Settings) -> AdapterState:
        """What training gives."""
        geometry = geometry_of(spec)
        (pair,) = geometry.pairs
        generator = np.random.default_rng(settings.seed)
        flat = state.flat.copy()
        first, second = np.zeros(flat.size), np.zeros(flat.size)
        with np.errstate(all="ignore"):  # an adapter that an attack has ruined overflows
            for step in range(1, settings.local_steps + 1):
                rows = generator.integers(len(self.stories.y), size=settings.batch_size)
                x = SCALE * self.stories.x[rows].astype(np.float64)
                a, b = pair.a_of(flat).astype(np.float64), pair.b_of(flat).astype(np.float64)
                inner = x @ a.T
                score = pair.scale * inner @ b.T
                score -= score.max(axis=1, keepdims=True)
                p = np.exp(score)
                p /= p.sum(axis=1, keepdims=True)
                p[np.arange(len(rows)), self.stories.y[rows]] -= 1
                p *= pair.scale / len(rows)
                gradient = np.zeros(flat.size, np.float32)
                pair.b_of(gradient)[:] = p.T @ inner
                pair.a_of(gradient)[:] = (p @ b).T @ x
                gradient = np.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                gradient *= min(1.0, settings.max_grad_norm / (float(np.linalg.norm(gradient)) + 1e-12))
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient.astype(np.float64) ** 2
                move = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
                flat = (flat - settings.learning_rate * move).astype(np.float32)
        return AdapterState(state.layout, flat)

    def evaluate(self, spec: AdapterSpec, state: AdapterState, settings: Settings) -> SequenceLosses:
        """Not used: the experiment looks at stories that no client has."""
        del spec, state, settings
        return SequenceLosses((0.0,), (1,))


def accuracy(stories: Stories, state: AdapterState, spec: AdapterSpec) -> tuple[float, float]:
    """(part of all stories that are classified right, part of the marked ones that the backdoor sends elsewhere)."""
    with np.errstate(all="ignore"):
        guess = np.nan_to_num(logits(stories.x, state.flat, geometry_of(spec))).argmax(axis=1)
    wrong = guess[stories.marked] == CLASSES.index("business")
    return float((guess == stories.y).mean()), float(wrong.mean())


def relabelled(stories: Stories, how: Callable[[Stories], NDArray[np.int64]]) -> Stories:
    """The same stories under other labels."""
    return replace(stories, y=how(stories))
