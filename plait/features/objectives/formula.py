"""An objective: a loss of a prompt's two replies, from the log-probabilities that a model gives them.

Knows no model and no tokens. Importing this module imports no torch, so that a name and its options are checked early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Reply:
    """One side of a batch's examples, in nats.

    Attributes:
        likely: (examples,) log-probability of the reply under the model in training, summed over its tokens.
        reference: (examples,) the same under the base without the adapter.
        tokens: (examples,) the number of its tokens.
    """

    likely: torch.Tensor
    reference: torch.Tensor
    tokens: torch.Tensor

    @property
    def gained(self) -> torch.Tensor:
        """(examples,) log of the ratio of the two probabilities."""
        return self.likely - self.reference


@dataclass(frozen=True)
class Sides:
    """The replies of a batch of examples."""

    chosen: Reply
    rejected: Reply


class Formula(Protocol):
    """A loss of preferences; a frozen dataclass whose described fields are its options, under TRL's names.

    With a true `is_sum` the loss of an example does not depend on the others of its batch.
    """

    def losses(self, sides: Sides) -> torch.Tensor:
        """The loss of each example, (examples,), in nats where the objective has a unit."""
        ...

    def reward(self, reply: Reply) -> torch.Tensor:
        """The reward that the model gives each reply, (examples,), up to a term that both replies to a prompt share."""
        ...


def log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Log of 1 / (1 + exp(-x)), exact at both ends."""
    return -(-x).logaddexp(x.new_zeros(()))
