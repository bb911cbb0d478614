"""An objective: a loss of a prompt's two replies, from the log-probabilities that a model gives them; and plait's own.

Knows no model and no tokens. Importing this module imports no torch, so that a name and its options are checked early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

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


@dataclass(frozen=True)
class DPO:
    """-log sigmoid of beta times the difference of the two log-ratios.

    Direct preference optimisation (Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290, eq. 7). With
    `label_smoothing`, the conservative form for labels that are wrong with that probability (Mitchell, "A note on DPO
    with noisy preferences", 2023, eq. 3).
    """

    beta: Annotated[float, Field(gt=0, le=1e3, description="how close the model stays to the reference")] = 0.1
    label_smoothing: Annotated[
        float, Field(ge=0, lt=0.5, description="probability that a preference is the wrong way round")
    ] = 0.0

    is_sum = True

    def losses(self, sides: Sides) -> torch.Tensor:
        """See `Formula`."""
        margin = self.reward(sides.chosen) - self.reward(sides.rejected)
        smoothing = self.label_smoothing
        return -(1 - smoothing) * _log_sigmoid(margin) - smoothing * _log_sigmoid(-margin)

    def reward(self, reply: Reply) -> torch.Tensor:
        """See `Formula`; equation 5 without the prompt's own term."""
        return self.beta * reply.gained


def _log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Log of 1 / (1 + exp(-x)), exact at both ends."""
    return -(-x).logaddexp(x.new_zeros(()))
