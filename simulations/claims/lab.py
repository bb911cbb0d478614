"""Central training of an adapter on one base with plait's own trainer, for measuring the claims.

Two texts: one is trained on, the other is never seen in training. Knows nothing of clients and rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from plait.adapters import AdapterState, Task
from plait.adapters.methods import AdapterRequest
from plait.data import Record, RecordKind, as_dataset
from plait.training.bases import locate_base, quiet_libraries
from plait.training.blueprint import Blueprint, design, read_base_config
from plait.training.device import DTYPES, Compute
from plait.training.examples import Example, split_examples, tokenise
from plait.training.learner import TrainingInputs
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.trainer import measure_losses, train_steps
from plait.wire.settings import Settings

CODE, NEWS = "stdlib", "bbc"


@dataclass(frozen=True)
class Point:
    """Held-out losses after some steps, in nats per token."""

    steps: int
    learned: float
    elsewhere: float | None


class Lab:
    """One base and its texts.

    Args:
        base: name of the base.
        learn: the text to train on, `CODE` or `NEWS`; the other one is the other text.
        seq_len: tokens per sequence.
        dtype: compute type.
        held_out: sequences per loss.
    """

    def __init__(
        self, base: str = "tiny", *, learn: str = NEWS, seq_len: int = 64, dtype: str = "float32", held_out: int = 64
    ) -> None:
        quiet_libraries()
        self._located = locate_base(base)
        self._seq_len, self._held_out, self._learn = seq_len, held_out, learn
        compute = Compute(torch.device("cpu"), DTYPES[dtype])
        self.base = ResidentBase(self._located.directory, self._located.reference.fingerprint, compute, seq_len=seq_len)

    def design(self, seed: int, **request: object) -> Blueprint:
        """An adapter."""
        config = read_base_config(self._located.directory, Task.CAUSAL_LM)
        return design(
            config, AdapterRequest(**request), task=Task.CAUSAL_LM, seed=seed, weights=self._located.directory
        )

    def train(
        self, blueprint: Blueprint, *, rate: float, steps: int, seed: int, every: int = 0, elsewhere: bool = False
    ) -> Iterator[tuple[Point, AdapterState]]:
        """Train; a point before the first step, after every interval, and after the last step.

        Each interval between two points has its own optimizer, like a round of a federation.
        """
        state = blueprint.initial
        yield self._point(blueprint, state, 0, elsewhere=elsewhere), state
        stretch = every or steps
        for done in range(0, steps, stretch):
            settings = Settings(
                local_steps=stretch, batch_size=4, gradient_accumulation_steps=1, seq_len=self._seq_len,
                learning_rate=rate, lr_schedule="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
                held_out_fraction=0.1, max_held_out_sequences=self._held_out, seed=1000 * seed + done, round=1,
                done_steps=done, total_steps=steps, wire="fp32", proximal=0.0, carry_moments=False, scaffold=False,
            )  # fmt: skip
            model = self.base.carrying(blueprint.spec, state)
            after = train_steps(
                model,
                adapter_parameters(model, blueprint.spec.layout),
                TrainingInputs(self._texts[self._learn][0], settings, state.flat),
                task=Task.CAUSAL_LM,
                pad_token=self.base.pad_token,
            )
            state = AdapterState(blueprint.spec.layout, after.flat)
            yield self._point(blueprint, state, done + stretch, elsewhere=elsewhere), state

    @cached_property
    def _texts(self) -> dict[str, tuple[Sequence[Example], Sequence[Example]]]:
        """Training and held-out sequences of both texts."""
        found = {}
        for name in (CODE, NEWS):
            dataset = as_dataset(name)
            records = [
                Record(text=record.text)
                for record in dataset.records
                # The base has seen the single-file modules; it should learn the packages.
                if name == NEWS or ("/" in record.columns["path"]) == (self._learn == CODE)
            ]
            # Stories are sorted by class, files by package: every part of them should be mixed.
            np.random.default_rng(0).shuffle(records)
            examples = tokenise(
                records[:1200], kind=RecordKind.TEXT, task=Task.CAUSAL_LM, labels=(), tokenizer=self.base.tokenizer,
                seq_len=self._seq_len,
            )  # fmt: skip
            split = split_examples(
                examples, client=name, seq_len=self._seq_len, held_out_fraction=0.1, max_held_out=self._held_out
            )
            found[name] = (split.train, split.held_out)
        return found

    def _point(self, blueprint: Blueprint, state: AdapterState, steps: int, *, elsewhere: bool) -> Point:
        other = NEWS if self._learn == CODE else CODE
        return Point(
            steps,
            self._loss(blueprint, state, self._learn),
            self._loss(blueprint, state, other) if elsewhere else None,
        )

    def _loss(self, blueprint: Blueprint, state: AdapterState, text: str) -> float:
        model = self.base.carrying(blueprint.spec, state)
        return measure_losses(
            model, self._texts[text][1], task=Task.CAUSAL_LM, pad_token=self.base.pad_token, batch_size=8
        ).loss
