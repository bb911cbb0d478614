"""Choose the next token: the likeliest, or drawn with a temperature from the likeliest few."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
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
        self.sampling = sampling
        self._generator = torch.Generator()
        self._generator.manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**63)

    def chance(self) -> float:
        """Where in the row's distribution its next token lies, 0 to below 1; drawn on the host, the same everywhere."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


def next_tokens(logits: Tensor, drawers: Sequence[Drawer]) -> list[int]:
    """The next token of every row, chosen on the logits' device and read from it once.

    Args:
        logits: (rows, vocabulary)

    Raises:
        ValueError: a row to draw from has no distribution: a logit is NaN or infinite.
    """
    chosen = logits.argmax(dim=1)
    for narrowed in (False, True):
        rows = [
            index
            for index, drawer in enumerate(drawers)
            if not drawer.sampling.greedy and (drawer.sampling.top_p < 1) == narrowed
        ]
        if rows:
            which = torch.tensor(rows, device=logits.device)
            chosen[which] = _drawn(logits.index_select(0, which), [drawers[row] for row in rows], narrowed=narrowed)
    tokens = chosen.tolist()
    if any(token == logits.shape[1] for token in tokens):
        raise ValueError("a logit is not finite, so no token can be drawn")
    return tokens


def _drawn(logits: Tensor, drawers: Sequence[Drawer], *, narrowed: bool) -> Tensor:
    """(rows,) tokens: the first whose cumulative probability exceeds the row's chance; the vocabulary's size if none.

    In float64 where the device has it, so that a seed gives the same text on every device, as far as logits agree.
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    settings = [(drawer.sampling.temperature, drawer.sampling.top_p, drawer.chance()) for drawer in drawers]
    temperature, top_p, chance = torch.tensor(settings, dtype=wide).to(logits.device).t()[:, :, None]
    probabilities = torch.softmax(logits.to(wide) / temperature, dim=1)
    order = None
    if narrowed:
        probabilities, order = probabilities.sort(dim=1, descending=True, stable=True)
        # The first token that reaches top_p is included.
        probabilities[probabilities.cumsum(1) - probabilities >= top_p] = 0
    reached = probabilities.cumsum(1)
    # Below the last sum, whatever is rounded: beyond it there is no token.
    wanted = torch.minimum(chance * reached[:, -1:], reached[:, -1:] * (1 - torch.finfo(wide).eps))
    place = torch.searchsorted(reached, wanted, right=True)
    if order is not None:
        in_order = order.gather(1, place.clamp(max=order.shape[1] - 1))
        place = in_order.where(place < order.shape[1], place)
    return place[:, 0]
