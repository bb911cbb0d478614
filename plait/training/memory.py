"""What training steps give up as memory runs out: blocks are computed twice, then batches in parts. Knows no device."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from plait.errors import MachineError
from plait.training.fused.kernels import SLICE_ELEMENTS_ON_GPU

ROWS = 64
"""Texts that grow side by side at most (`generate`)."""
PROMPT_TOKENS = 8192
"""Of prompts that are read at once at most, padding included; a longer one goes alone."""

T = TypeVar("T")

ALL_BLOCKS = 1 << 30
"""More than any base has."""

# In torch's words; neither is torch.OutOfMemoryError. The first is the CPU's allocator, the second Metal's.
_SAYINGS = ("can't allocate memory", "out of memory")


@dataclass
class StepMemory:
    """What the steps of one base on one device have given up so far.

    Attributes:
        recomputed: how many of the first blocks are computed twice; a plan says how many, and `ALL_BLOCKS` is the most.
        cuts: batches are cut into this many parts; a power of two.
        slice_elements: logits of the loss that exist at a time.
    """

    recomputed: int = 0
    cuts: int = 1
    slice_elements: int = SLICE_ELEMENTS_ON_GPU
    learned: bool = field(default=False, compare=False)
    """Whether memory ran out at least once."""

    def begin_with(self, *, recomputed: int, cuts: int, slice_elements: int = SLICE_ELEMENTS_ON_GPU) -> None:
        """Give up what a plan says, and no less than what was found out by trying."""
        self.slice_elements = slice_elements
        least = self if self.learned else StepMemory()
        self.recomputed, self.cuts = max(recomputed, least.recomputed), max(cuts, least.cuts)

    def parts(self, batch: Sequence[T]) -> list[Sequence[T]]:
        """The batch in parts that are computed one after another, in order."""
        size = max(1, -(-len(batch) // self.cuts))
        return [batch[first : first + size] for first in range(0, len(batch), size)]

    def give_way(self, largest: int, *, recomputes: bool = True) -> bool:
        """Use less memory from now on.

        Returns:
            False if nothing is left to give up.
        """
        if recomputes and self.recomputed < ALL_BLOCKS:
            self.recomputed = ALL_BLOCKS
        elif self.cuts < largest:
            self.cuts *= 2
        else:
            return False
        self.learned = True
        return True


def within_memory(attempt: Callable[[], T], *, give_way: Callable[[], bool], device: torch.device, what: str) -> T:
    """The result of `attempt`, tried again with less memory as long as there is a way.

    Args:
        give_way: called after each failure; False if nothing is left to give up.

    Raises:
        MachineError: it does not fit.
    """
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
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in _SAYINGS)
