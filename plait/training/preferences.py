"""Learning from preferences: log-probabilities of all replies of a batch in one forward pass, and an objective's loss.

The reference is the base without the adapter; each example's log-probabilities under it are computed once.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from peft import PeftModel
from torch import nn

from plait.adapters import AdapterTask
from plait.data import Record, RecordKind
from plait.errors import PartError, check_abandoned
from plait.objectives.formula import Formula, Reply, Sides, formula_named
from plait.own_code import located_errors
from plait.settings.choice import parse_choice
from plait.training.conversations import conversation, of_each
from plait.training.device import device_of
from plait.training.examples import Example, Tokenizer, count_labels, visited
from plait.training.learner import TrainingInputs
from plait.training.losses import (
    BatchLoss,
    StepLoss,
    StepMemory,
    is_out_of_memory,
)
from plait.training.trainer import Judge, TrainingObjective

_TASK = AdapterTask.CAUSAL_LM


class Preferences(TrainingObjective):
    """A formula of preferences, with what is known of the client's preferences under the base."""

    kinds = frozenset({RecordKind.PREFERENCE})

    def __init__(self, text: str) -> None:
        self.expected = f"prompt, chosen and rejected for objective '{parse_choice(text)[0]}'"
        self._formula = cast("Formula", formula_named(text))
        self._references: dict[bytes, tuple[float, ...]] = {}

    def examples(
        self, records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int
    ) -> list[Example]:
        """Both replies of each record."""
        del kind
        return of_each(records, lambda record: _judged(record, tokenizer, seq_len))

    def loss(
        self, model: nn.Module, parameters: Sequence[nn.Parameter], inputs: TrainingInputs, memory: StepMemory
    ) -> StepLoss:
        """The formula's, with the references of the examples that the training visits."""
        del parameters
        met = visited(inputs.examples, inputs.settings, inputs.task)
        learn_references(self._references, model, met)
        return PreferenceLoss(model, self._formula, self._references, memory=memory)

    def judge(self, model: nn.Module, examples: Sequence[Example]) -> Judge:
        """By the formula's loss, and the reward by which the chosen reply leads."""
        learn_references(self._references, model, examples)
        return PreferenceLoss(model, self._formula, self._references).by_example


def learn_references(known: dict[bytes, tuple[float, ...]], model: nn.Module, examples: Iterable[Example]) -> None:
    """Add to `known` the log-probabilities of examples' sides under the base alone, in nats, by digest, if missing."""
    unknown = {example.digest: example for example in examples if example.digest not in known}
    if not unknown:
        return
    with without_adapter(model):
        loss = BatchLoss(model)
        for digest, example in unknown.items():
            there = [side for side in example.sides if side is not None]
            known[digest] = tuple(-each for each in loss.by_sequence(there))
            check_abandoned()


class PreferenceLoss(StepLoss):
    """An objective's loss of a batch, summed over its examples, with what `learn_references` found."""

    def __init__(
        self,
        model: nn.Module,
        objective: Formula,
        references: Mapping[bytes, tuple[float, ...]],
        *,
        memory: StepMemory | None = None,
    ) -> None:
        self._losses = BatchLoss(model, memory=memory)
        self._objective, self._references = objective, references
        self._device = device_of(model)
        self.is_sum = bool(getattr(objective, "is_sum", False))
        self.recomputes = self._losses.recomputes

    def __call__(self, batch: Sequence[Example], /) -> torch.Tensor:
        """See `StepLoss`."""
        sides = self._sides(batch)
        return self._of_each(len(batch), lambda: self._objective.losses(sides)).sum()

    @torch.no_grad()
    def by_example(self, batch: Sequence[Example]) -> tuple[list[float], list[float]]:
        """Losses, and the reward by which each example's chosen reply leads, without gradients."""
        sides = self._sides(batch)
        chosen, rejected = (
            self._of_each(len(batch), partial(self._objective.reward, side)) for side in (sides.chosen, sides.rejected)
        )
        losses = self._of_each(len(batch), lambda: self._objective.losses(sides))
        return losses.tolist(), (chosen - rejected).tolist()

    def _of_each(self, examples: int, compute: Callable[[], object]) -> torch.Tensor:
        name = type(self._objective).__name__
        try:
            found = compute()
        except Exception as error:
            if is_out_of_memory(error):
                raise  # the step can be tried with less
            with located_errors(f"objective '{name}' failed", quoting=False):
                raise
        if not isinstance(found, torch.Tensor) or found.shape != (examples,):
            given = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
            raise PartError(f"objective '{name}' gave {given}, expected a number of each of {examples} examples")
        return found

    def _sides(self, batch: Sequence[Example]) -> Sides:
        sides = [[side for side in example.sides if side is not None] for example in batch]
        both = [each for side in zip(*sides, strict=True) for each in side]
        losses, counts = self._losses.by_token(both)
        sums = -torch.stack([each.sum() for each in losses.split(counts)])
        known = [self._references[example.digest] for example in batch]
        tokens = torch.tensor([count_labels(each, _TASK) for each in both], device=self._device)
        references = torch.tensor([*zip(*known, strict=True)], dtype=torch.float32, device=self._device)
        chosen, rejected = (
            Reply(*each) for each in zip(sums.split(len(batch)), references, tokens.split(len(batch)), strict=True)
        )
        return Sides(chosen, rejected)


@contextmanager
def without_adapter(model: nn.Module) -> Generator[None]:
    """The model as its base computes, in evaluation mode, for a while."""
    if not isinstance(model, PeftModel):
        raise TypeError("the model has no adapter to turn off")
    was_training = model.training
    # PEFT makes every tensor of the adapter trainable when it turns the adapter on again.
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    try:
        with torch.no_grad(), model.disable_adapter():
            yield
    finally:
        for parameter, trains in trained:
            parameter.requires_grad_(trains)
        model.train(was_training)


def _judged(record: Record, tokenizer: Tokenizer, seq_len: int) -> Example | None:
    """A preference; None if one of its replies begins beyond the sequence length, or both are cut to the same."""
    chosen, rejected = (
        conversation(record.messages, reply, tokenizer, seq_len) for reply in (record.chosen, record.rejected)
    )
    if chosen is None or rejected is None or chosen.digest == rejected.digest:
        return None
    return Example.of_sides(chosen, rejected)
