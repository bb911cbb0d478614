"""How likely a model finds continuations of contexts, and whether it would write them itself.

Pairs whose tokens are the same up to the last one, such as answers of one letter, share a pass; passes have no padding
where `fused` knows the model; and only positions that predict a continuation go through the head. Knows no tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from plait.abandon import check_abandoned
from plait.errors import ConfigError
from plait.training.device import device_of
from plait.training.fused import recognise
from plait.training.losses import pad

# Of logits in float32 at once: 64 MiB.
_MOST_LOGITS = 1 << 24


@dataclass(frozen=True)
class Score:
    """Of one continuation.

    Attributes:
        likely: its log-probability in nats, summed over its tokens.
        is_greedy: whether each of its tokens is the likeliest one.
    """

    likely: float
    is_greedy: bool


@dataclass(eq=False)
class _Pass:
    """One row of tokens, and the pairs that are read from it: their numbers, and the tokens of their continuations."""

    tokens: NDArray[np.int32]
    pairs: list[tuple[int, NDArray[np.int64]]]

    @property
    def needed(self) -> int:
        """How many of its last positions predict something."""
        return max(len(continuation) for _, continuation in self.pairs)


@torch.no_grad()
def scores(
    model: nn.Module,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    pad_token: int,
    batch_size: int,
    most_tokens: int,
) -> list[Score]:
    """Score continuations.

    Args:
        pairs: tokens of a context and of its continuation, at least one of each.
        pad_token: pads short rows if rows must be padded.
        most_tokens: that the model takes; of longer contexts the end is used.

    Returns:
        The score of each pair, in order.

    Raises:
        ConfigError: a continuation is longer than the model takes.
        Abandoned: the result is no longer needed.
    """
    model.eval()
    longest = max((len(continuation) for _, continuation in pairs), default=0)
    if longest > most_tokens:
        raise ConfigError(f"a continuation has {longest} tokens, expected at most {most_tokens}, which the base takes")
    found: list[Score | None] = [None] * len(pairs)
    passes = sorted(_passes(pairs, most_tokens), key=lambda each: -len(each.tokens))
    for first in range(0, len(passes), batch_size):
        batch = passes[first : first + batch_size]
        for number, score in _scored(model, batch, pad_token):
            found[number] = score
        check_abandoned()
    return [score for score in found if score is not None]


def _passes(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], most_tokens: int) -> list[_Pass]:
    shared: dict[bytes, _Pass] = {}
    for number, (context, continuation) in enumerate(pairs):
        # The last token predicts nothing that is asked for.
        tokens = np.array([*context, *continuation], np.int32)[-(most_tokens + 1) :][:-1]
        own = shared.setdefault(tokens.tobytes(), _Pass(tokens, []))
        own.pairs.append((number, np.array(continuation, np.int64)))
    return list(shared.values())


def _scored(model: nn.Module, batch: Sequence[_Pass], pad_token: int) -> Iterator[tuple[int, Score]]:
    needed = [each.needed for each in batch]
    # Of the rows of logits: where each pass's own begin.
    starts = np.cumsum([0, *needed])
    numbers: list[int] = []
    rows: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int64]] = []
    for each, start, many in zip(batch, starts, needed, strict=False):
        for number, continuation in each.pairs:
            numbers.append(number)
            rows.append(start + many - len(continuation) + np.arange(len(continuation)))
            targets.append(continuation)
    likely, greedy = _read(_logits(model, batch, pad_token), np.concatenate(rows), np.concatenate(targets))
    ends = np.cumsum([len(target) for target in targets])[:-1]
    for number, of_one, is_likeliest in zip(numbers, np.split(likely, ends), np.split(greedy, ends), strict=True):
        yield number, Score(float(of_one.sum()), bool(is_likeliest.all()))


def _read(
    logits: Iterator[torch.Tensor], rows: NDArray[np.int64], targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-probabilities of targets, and which are the likeliest, from pieces of the rows of logits, in order."""
    likely, greedy = np.empty(len(rows)), np.empty(len(rows), np.bool_)
    first = 0
    for piece in logits:
        here = np.flatnonzero((rows >= first) & (rows < first + len(piece)))
        at = torch.from_numpy(rows[here] - first).to(piece.device)
        wanted = torch.from_numpy(targets[here]).to(piece.device)
        chosen = piece[at, wanted] - piece.logsumexp(dim=1)[at]
        likely[here] = chosen.double().cpu().numpy()
        greedy[here] = (piece.argmax(dim=1)[at] == wanted).cpu().numpy()
        first += len(piece)
    return likely, greedy


def _logits(model: nn.Module, batch: Sequence[_Pass], pad_token: int) -> Iterator[torch.Tensor]:
    """Pieces of the logits that are needed, (rows, words) float32."""
    lengths = [len(each.tokens) for each in batch]
    fused = recognise(model)
    if fused is not None and (fused.longest is None or max(lengths) <= fused.longest):
        hidden = fused.hidden([each.tokens for each in batch], _last(batch, np.cumsum([0, *lengths])))
        most = max(1, _MOST_LOGITS // fused.head.shape[0])
        yield from (fused.logits(part).float() for part in hidden.split(most))
        return
    tokens, mask = pad([each.tokens for each in batch], pad_token, device_of(model))
    longest = tokens.shape[1]
    # A learned prompt is part of the input, so its positions are part of the output.
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, -longest:].flatten(0, 1)
    wanted = torch.from_numpy(_last(batch, longest * np.arange(len(batch) + 1))).to(logits.device)
    most = max(1, _MOST_LOGITS // logits.shape[1])
    yield from (logits.index_select(0, part).float() for part in wanted.split(most))


def _last(batch: Sequence[_Pass], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions that predict continuations, given where each pass begins."""
    parts = [
        start + len(each.tokens) - each.needed + np.arange(each.needed)
        for each, start in zip(batch, starts, strict=False)
    ]
    return np.concatenate(parts)
