"""Local training with differential privacy of single records: DP-SGD on an adapter, with exact noise.

The mechanism of a private round (`plait.privacy.mechanism`), with examples in the place of clients: each gradient is
clipped, integer Gaussian noise added to their sum. Batches and noise follow from one secret key. The loss is the mean
over an example's labels, so that long records count no more. `fused` computes a batch at once, with a copy of the
factors for each example.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import nn

from plait.adapters import AdapterTask, Float32
from plait.errors import ConfigError, check_abandoned
from plait.privacy.client import Charge, RecordPrivacy
from plait.privacy.mechanism import PrivateMean, length
from plait.privacy.noise import Keystream, derived
from plait.rounds.local_model import Trained
from plait.training.examples import Example, count_labels
from plait.training.fused.language_model import FusedLanguageModel, recognise
from plait.training.learner import Learner, TrainingInputs
from plait.training.losses import StepMemory
from plait.training.model_losses import ModelLosses
from plait.training.trainer import SCALE_PER_EXAMPLE, follow, in_training, trained_parameters

Tensor = torch.Tensor


class ExampleGradients:
    """Gradients of examples, `together` at once; the first `recomputed` blocks are computed twice."""

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        *,
        task: AdapterTask = AdapterTask.CAUSAL_LM,
        pad_token: int = 0,
        together: int,
        recomputed: int = 0,
    ) -> None:
        self._model, self._parameters = model, parameters
        self._recomputed = recomputed
        self._task, self._own = task, ModelLosses(model, task=task, pad_token=pad_token)
        self._together = together
        # Constant, so that no example decides about another's.
        self._scale = SCALE_PER_EXAMPLE if any(x.dtype == torch.float16 for x in model.parameters()) else 1.0
        self._fused = recognise(model) if task is AdapterTask.CAUSAL_LM else None

    def __call__(self, examples: Sequence[Example]) -> Iterator[Float32]:
        """The gradient of each example, (size,) float32, valid until the next one."""
        for first in range(0, len(examples), self._together):
            part = examples[first : first + self._together]
            if self._fused is not None and self._fused.takes(part):
                yield from self._at_once(self._fused, part)
            else:
                for example in part:
                    yield self._alone(example)

    def _at_once(self, fused: FusedLanguageModel, examples: Sequence[Example]) -> Iterator[Float32]:
        count = len(examples)
        stacks = [
            parameter.detach().expand(count, *parameter.shape).contiguous().requires_grad_(parameter.requires_grad)
            for parameter in self._parameters
        ]
        places = {id(parameter): stack for parameter, stack in zip(self._parameters, stacks, strict=True)}
        losses, counts = fused.token_losses(
            examples, adapters=count, pairs=fused.pairs_of(places), recomputed=self._recomputed
        )
        (torch.stack([part.mean() for part in losses.split(counts)]).sum() * self._scale).backward()
        gradients = [stack.grad for stack in stacks]
        for number in range(count):
            yield self._flat([None if gradient is None else gradient[number] for gradient in gradients])

    def _alone(self, example: Example) -> Float32:
        loss = self._own.total([example])
        (loss / count_labels(example, self._task) * self._scale).backward()
        found = self._flat([parameter.grad for parameter in self._parameters])
        for parameter in self._parameters:
            parameter.grad = None
        return found

    def _flat(self, gradients: Sequence[Tensor | None]) -> Float32:
        parts = [
            np.zeros(parameter.numel(), np.float32) if gradient is None else gradient.float().cpu().numpy().reshape(-1)
            for parameter, gradient in zip(self._parameters, gradients, strict=True)
        ]
        flat = np.concatenate(parts)
        return flat if self._scale == 1 else flat / np.float32(self._scale)


@dataclass(frozen=True)
class Units:
    """What is private as a whole: the examples of each record or group, of which a step takes so many at random."""

    members: Sequence[Sequence[int]]
    most: int
    generator: np.random.Generator

    @classmethod
    def of(cls, groups: Sequence[int], *, most: int, key: bytes) -> Self:
        """The units of examples, by the number of each one's."""
        members: dict[int, list[int]] = {}
        for place, group in enumerate(groups):
            members.setdefault(group, []).append(place)
        # What is drawn of a group needs no secret: the clip bounds whatever it is.
        return cls([*members.values()], max(1, most), np.random.default_rng(np.frombuffer(key, np.uint32)))

    def drawn(self, unit: int) -> Sequence[int]:
        """The examples that one unit has in one step."""
        own = self.members[unit]
        return own if len(own) <= self.most else self.generator.choice(own, self.most, replace=False).tolist()


def train_privately(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    inputs: TrainingInputs,
    charge: Charge,
    *,
    memory: StepMemory | None = None,
    groups: Sequence[int] = (),
) -> Trained:
    """Train so that no record shows, or no group of records where each example's is given.

    Loss, tokens and time are 0: no noise covers them. The key is secret.
    """
    settings, examples = inputs.settings, inputs.examples
    privacy, key = charge.privacy, charge.key
    units = Units.of(groups or range(len(examples)), most=settings.group_records, key=derived(key, b"of a group"))
    if len(units.members) != privacy.records:
        what = "groups" if groups else "examples"
        raise ConfigError(f"there are {len(units.members)} {what}, expected the {privacy.records} that are paid for")
    if not settings.learning_rate:
        raise ConfigError("learning-rate is 0, expected a number: one that is found in the data would not be private")
    trained = trained_parameters(model, parameters, settings.trained)
    learner = Learner(inputs, trained, device=parameters[0].device)
    moves = np.repeat(trained, [parameter.numel() for parameter in parameters])
    gradients = ExampleGradients(
        model.train(),
        parameters,
        task=inputs.task,
        pad_token=inputs.pad_token,
        together=settings.batch_size,
        recomputed=memory.recomputed if memory else 0,
    )
    mechanism, draws = privacy.mechanism, Keystream(derived(key, b"batches"))
    noised = np.zeros(len(moves), np.float32)
    with in_training(parameters, trained, settings.seed):
        for step in range(settings.steps_taken):
            follow(parameters, learner.values)
            chosen = privacy.sample(draws)
            mean = PrivateMean(
                mechanism,
                size=int(moves.sum()),
                clip_norm=mechanism.clip_norm or 1.0,
                key=derived(key, b"step %d" % step),
            )
            drawn = [units.drawn(index) for index in chosen]
            found = gradients([examples[place] for places in drawn for place in places])
            for index, places in zip(chosen, drawn, strict=True):
                total = np.zeros(int(moves.sum()), np.float32)
                for _ in places:
                    total += next(found)[moves]
                mean.add(str(index), _scaled(total, privacy))
            noised[moves], _ = mean.finish()
            learner.noised_step(noised)
            check_abandoned()
    follow(parameters, learner.values)
    return learner.finish(0.0)


def _scaled(gradient: Float32, privacy: RecordPrivacy) -> Float32:
    """A gradient as it is clipped: of norm 1 where no clip norm is given."""
    norm = length(gradient)
    if not np.isfinite(norm):
        # A run that fails must not single out one bad record.
        return np.zeros_like(gradient)
    return gradient if privacy.clip_norm is not None or not norm else gradient * np.float32(1 / norm)
