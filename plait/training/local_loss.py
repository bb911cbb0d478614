"""What a client minimises instead of the cross-entropy: a function of logits, labels and adapter, chosen by `--loss`.

    def focal(logits, labels, adapter, *, gamma: float = 2.0):
        likely = torch.log_softmax(logits, dim=-1).gather(1, labels[:, None])[:, 0]
        return -((1 - likely.exp()) ** gamma * likely).sum()

It returns the sum over the labels; plait divides by the number of labels of the whole step, as for the cross-entropy.
Losses that are reported stay those of the examples. Importing this module imports no torch, so that a name can be
checked early.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from plait.choice import parse_choice, with_options
from plait.errors import ConfigError
from plait.plugins import Kind, find

if TYPE_CHECKING:
    import torch

CROSS_ENTROPY = "cross_entropy"
"""The default, which no function computes."""
_TAKES = ("logits", "labels", "adapter")


@dataclass(frozen=True, eq=False)
class LocalAdapter:
    """The adapter in training, as a loss sees it.

    Attributes:
        tensors: its tensors by name, which gradients can be taken of.
        received: their values when the round began.
        received_logits: gives the logits of the same positions under the received adapter, without dropout and
            gradient; costs a forward pass.
    """

    tensors: Mapping[str, torch.Tensor]
    received: Mapping[str, torch.Tensor]
    received_logits: Callable[[], torch.Tensor]


class LocalLoss(Protocol):
    """A loss with its options."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, adapter: LocalAdapter) -> torch.Tensor:
        """The loss, summed over the labels.

        Args:
            logits: (labels, words) float32; of a classifier (examples, classes).
            labels: (labels,) int64, each the right word or class.
        """
        ...


def loss_named(text: str) -> LocalLoss | None:
    """The loss that `--loss` names; None for the cross-entropy.

    Raises:
        ConfigError: there is none, it is no function of (logits, labels, adapter), or an option is wrong.
    """
    name, options = parse_choice(text)
    what = f"loss '{name}'"
    if name == CROSS_ENTROPY:
        if options:
            raise ConfigError(f"{what} is given options, it has none")
        return None
    found = find(Kind.LOSS, name, known=(CROSS_ENTROPY,))
    if not callable(found):
        raise ConfigError(f"{what} is a {type(found).__name__}, expected a function of ({', '.join(_TAKES)})")
    from plait.own_code import chosen_function

    return cast("LocalLoss", with_options(chosen_function(found, _TAKES, what=what), options, what=what))
