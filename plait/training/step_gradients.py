"""The gradients of a training's steps: what each replica computes of them, within memory and within float16's range.

Knows no optimizer and no order of examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from plait.training.examples import Example
from plait.training.lesson import Lesson, StepLoss
from plait.training.loss_scale import LossScale
from plait.training.replicas import Replica, deal, over
from plait.training.step_memory import StepMemory, within_memory
from plait.wire.settings import Settings

Batches = Sequence[Sequence[Example]]


@dataclass(frozen=True, eq=False)
class StepGradients:
    """What computes gradients, in the parameters of all replicas.

    A step's loss is the mean over all its label tokens, whatever their distribution over micro-batches.

    Attributes:
        losses: of each replica.
        size: sequences that a replica computes at a time where a step can be cut; 0 for whole batches or units.
        memory: what earlier steps gave up; changed if it is not enough.
    """

    replicas: Sequence[Replica]
    losses: Sequence[StepLoss]
    size: int
    seq_len: int
    memory: StepMemory
    scale: LossScale

    @classmethod
    def of(cls, lesson: Lesson, replicas: Sequence[Replica], settings: Settings, memory: StepMemory) -> StepGradients:
        """Those of a lesson; the models are then in its mode."""
        losses: list[StepLoss] = []
        for replica in replicas:
            replica.model.train(not lesson.without_dropout)
            losses.append(lesson.loss(replica))
        size = settings.batch_size if losses[0].is_sum and not lesson.in_whole else 0
        scale = LossScale.of(replicas[0].model.parameters())
        return cls(replicas, losses, size, settings.seq_len, memory, scale)

    def compute(self, batches: Batches, counted: int) -> tuple[float, bool]:
        """Compute a step's gradients.

        Args:
            counted: the terms of its loss.

        Returns:
            The loss, and whether a step may be taken along the gradients.

        Raises:
            MachineError: it does not fit into memory.
        """
        work, loss = self._dealt(batches), self.losses[0]
        largest = min(self.size, max(map(len, work))) if self.size else 1
        attempt = partial(
            within_memory,
            partial(self._backward, work, counted),
            give_way=partial(self.memory.give_way, largest, recomputes=loss.recomputes),
            device=self.replicas[0].device,
            what=f"a step over {self.seq_len} tokens a sequence",
        )
        (step_loss,), is_finite = self.scale.settle(attempt)
        return step_loss, is_finite

    def forget(self) -> None:
        """Free the gradients."""
        for replica in self.replicas:
            for parameter in replica.parameters:
                parameter.grad = None

    def _dealt(self, batches: Batches) -> list[list[Sequence[Example]]]:
        """What each replica computes: sequences, or whole batches where the loss is no plain sum over them."""
        units: list[Sequence[Example]] = [*batches]
        if self.losses[0].is_sum:
            units = [[example] for batch in batches for example in batch]
        return deal(units, len(self.replicas), size=lambda unit: sum(len(each.tokens) for each in unit))

    def _passes(self, work: Batches) -> Iterator[Sequence[Example]]:
        """A replica's part of a step in pieces, one after another."""
        if not self.size:
            # A cut would change the loss, or a unit is enough for a pass.
            yield from work
            return
        examples = [example for unit in work for example in unit]
        for first in range(0, len(examples), self.size):
            yield from self.memory.parts(examples[first : first + self.size])

    def _backward(self, work: Sequence[list[Sequence[Example]]], counted: int) -> tuple[list[float], bool]:
        """The loss, and whether gradients overflowed."""
        self.forget()  # a failed attempt may have left some
        scale = self.scale

        def compute(replica: Replica, given: tuple[StepLoss, list[Sequence[Example]]]) -> list[float]:
            batch_loss, own = given
            said: list[torch.Tensor] = []
            for batch in self._passes(own):
                loss = batch_loss(batch) / counted
                scale.applied(loss).backward()
                reported = batch_loss.reported
                said.append(loss.detach() if reported is None else reported / counted)
            if scale.adapts and said:
                said.append(scale.overflows(parameter.grad for parameter in replica.parameters).to(said[0].device))
            return torch.stack(said).tolist() if said else []  # once: each read waits for a GPU

        loss, overflowed = 0.0, False
        for read in over(self.replicas, compute, list(zip(self.losses, work, strict=True))):
            if scale.adapts and read:
                overflowed = bool(read.pop()) or overflowed
            loss += sum(read)
        return [loss], overflowed
