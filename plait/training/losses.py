"""What a training minimises: the loss of a batch, and what gives way where a step does not fit into memory.

Language models that `fused` supports are computed by it, every other model as PEFT and transformers implement it
(`model_losses`).
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from plait.adapters import AdapterTask
from plait.errors import MachineError
from plait.rounds.local_model import Trained
from plait.training.examples import Example, count_labels
from plait.training.fused.kernels import SLICE_ELEMENTS_ON_GPU
from plait.training.fused.language_model import FusedLanguageModel, recognise

if TYPE_CHECKING:
    from plait.training.model_losses import ModelLosses

T = TypeVar("T")

ALL_BLOCKS = 1 << 30
"""More than any base has."""

# Torch's words; neither is torch.OutOfMemoryError. The first is the CPU's allocator, the second Metal's.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


class StepLoss:
    """What one training minimises: the loss of a batch under a model.

    Attributes:
        is_sum: the loss of a batch is the sum of those of its parts.
        recomputes: blocks can be computed twice instead of kept.
        reported: of the last batch, where it is not its loss.
        in_whole: a step is computed unit by unit, and none is split.
        is_limited: a step may predict no more than its share of the loss.
    """

    is_sum: bool = True
    recomputes: bool = False
    reported: torch.Tensor | None = None
    without_dropout: bool = False
    in_whole: bool = False
    is_limited: bool = True

    def __call__(self, batch: Sequence[Example], /) -> torch.Tensor:
        """The batch's loss; a scalar that gradients can be taken of."""
        raise NotImplementedError

    def draws(self, step: int) -> bool:
        """Whether a step has batches of its own."""
        del step
        return True

    def begin(self, batches: Sequence[Sequence[Example]], step: int) -> None:
        """Do what comes before a step on new batches."""

    def to_report(self, loss: float) -> float:
        """What a step with this loss reports."""
        return loss

    def finished(self, done: Trained) -> Trained:
        """What the training reports."""
        return done


class BatchLoss(StepLoss):
    """Cross-entropy in nats, summed over a batch's label tokens (or examples), in float32, in the model's mode."""

    def __init__(
        self,
        model: nn.Module,
        *,
        task: AdapterTask = AdapterTask.CAUSAL_LM,
        pad_token: int = 0,
        memory: "StepMemory | None" = None,
    ) -> None:
        self._model, self._task, self._pad_token = model, task, pad_token
        self._memory = memory or StepMemory()
        self._fused = recognise(model) if task is AdapterTask.CAUSAL_LM else None
        self._own: ModelLosses | None = None
        self.recomputes = self.is_packed = self._fused is not None  # without padding

    def __call__(self, batch: Sequence[Example], /) -> torch.Tensor:
        """See `StepLoss`."""
        if self._fused is not None and self._fused.takes(batch):
            return self._by_fused(self._fused, batch)[0].sum()
        return self.by_model().total(batch)

    def by_sequence(self, batch: Sequence[Example]) -> list[float]:
        """The same for every sequence of a language model's batch separately, without gradients."""
        with torch.no_grad():
            losses, counts = self.by_token(batch)
        return [float(part.sum()) for part in losses.double().cpu().split(counts)]

    def by_token(self, batch: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        """The same for every label token of a language model's batch, (counted,) float32, and how many each has."""
        if self._fused is not None and self._fused.takes(batch):
            return self._by_fused(self._fused, batch)
        return self.by_model().by_token(batch), [count_labels(example, self._task) for example in batch]

    def _by_fused(self, fused: FusedLanguageModel, batch: Sequence[Example]) -> tuple[torch.Tensor, list[int]]:
        memory = self._memory
        return fused.token_losses(batch, recomputed=memory.recomputed, slice_elements=memory.slice_elements)

    def by_model(self) -> "ModelLosses":
        """The same by the model's own modules."""
        if self._own is None:
            from plait.training.model_losses import ModelLosses

            is_sliced = self._task is AdapterTask.CAUSAL_LM and self._fused is None
            self._own = ModelLosses(self._model, task=self._task, pad_token=self._pad_token, is_sliced=is_sliced)
        return self._own


@dataclass
class StepMemory:
    """What steps gave up: first blocks computed twice, parts of a batch, logits at a time."""

    recomputed: int = 0
    cuts: int = 1
    slice_elements: int = SLICE_ELEMENTS_ON_GPU
    learned: bool = field(default=False, compare=False)
    """Whether memory ran out at least once."""

    def begin_with(self, *, recomputed: int, cuts: int, slice_elements: int = SLICE_ELEMENTS_ON_GPU) -> None:
        """Give up what a plan asks for, and no less than what running out of memory taught."""
        self.slice_elements = slice_elements
        least = self if self.learned else StepMemory()
        self.recomputed, self.cuts = max(recomputed, least.recomputed), max(cuts, least.cuts)

    def parts(self, batch: Sequence[T]) -> list[Sequence[T]]:
        """The batch in parts that are computed one after another, in order."""
        size = max(1, -(-len(batch) // self.cuts))
        return [batch[first : first + size] for first in range(0, len(batch), size)]

    def give_way(self, largest: int, *, recomputes: bool = True) -> bool:
        """Use less memory from now on; False if nothing is left to give up."""
        if recomputes and self.recomputed < ALL_BLOCKS:
            self.recomputed = ALL_BLOCKS
        elif self.cuts < largest:
            self.cuts *= 2
        else:
            return False
        self.learned = True
        return True


def within_memory(attempt: Callable[[], T], *, give_way: Callable[[], bool], device: torch.device, what: str) -> T:
    """The result of `attempt`, tried again as long as `give_way` finds a way; else MachineError."""
    while True:
        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = error
        # Outside the handler: the traceback holds the tensors of the failed attempt.
        reason.__traceback__ = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        elif device.type == "mps":
            torch.mps.empty_cache()
        if not give_way():
            raise MachineError(
                f"{what} does not fit into the memory of {device}, in parts as small as they can be; lower "
                "--batch-size, --seq-len or --rank, take a smaller base, or --method qlora with the base in four bits"
            ) from reason


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the system had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error).lower() for each in _OUT_OF_MEMORY)
