"""Choose the next token: the likeliest, or drawn with a temperature from the likeliest few."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one request are drawn.

    Attributes:
        temperature: 0 always takes the likeliest token.
        top_p: draw only from the likeliest tokens that together have this probability (arXiv 1904.09751).
        seed: of the draws; None for a different one each time.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0


class Drawer:
    """Draws the tokens of one row, the same ones for the same seed whatever else is in the batch."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator()
        self._generator.manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**63)

    def draw(self, logits: Tensor) -> int:
        """The next token.

        Args:
            logits: (vocabulary,)
        """
        sampling = self._sampling
        if sampling.greedy:
            return int(logits.argmax())
        # In float64 and on the CPU, so that a seed gives the same text on every device, as far as logits agree.
        probabilities = torch.softmax(logits.cpu().double() / sampling.temperature, dim=0)
        if sampling.top_p < 1:
            ordered, order = probabilities.sort(descending=True, stable=True)
            # The first token that reaches top_p is included.
            ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0
            return int(order[torch.multinomial(ordered, 1, generator=self._generator)])
        return int(torch.multinomial(probabilities, 1, generator=self._generator))
