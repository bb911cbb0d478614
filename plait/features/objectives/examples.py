"""Preferences and prompts as token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from plait.data import Record
from plait.training.conversations import conversation
from plait.training.examples import IGNORED, Example, Split, Tokenizer

# How many examples away a reply to another prompt is looked for.
_FURTHEST = 64


def judged(record: Record, tokenizer: Tokenizer, seq_len: int) -> Example | None:
    """A preference; None if one of its replies begins beyond the sequence length, or both are cut to the same."""
    replies = (record.chosen, record.rejected)
    sides = [conversation(record.messages, reply, tokenizer, seq_len) if reply else None for reply in replies]
    if any(reply and side is None for reply, side in zip(replies, sides, strict=True)):
        return None
    chosen, rejected = sides
    if chosen and rejected and chosen.digest == rejected.digest:
        return None
    return Example.of_sides(chosen, rejected)


def single_replies(split: Split) -> Split:
    """The split for an objective that takes one reply at a time (KTO).

    Pairs that train become two examples. Every example gets the reply of another one to its own prompt, by which the
    objective measures how far the model is from the reference.
    """
    train = [
        Example.of_sides(*(side if number == kept else None for number, side in enumerate(example.sides[:2])))
        for kept in (0, 1)
        for example in split.train
        if example.sides[kept] is not None
    ]
    return replace(split, train=_with_unrelated(train), held_out=_with_unrelated(split.held_out))


def _with_unrelated(examples: Sequence[Example]) -> tuple[Example, ...]:
    replies = [next(side for side in example.sides if side is not None) for example in examples]
    starts = [int(np.flatnonzero(reply.labels != IGNORED)[0]) for reply in replies]
    prompts = [reply.tokens[:start].tobytes() for reply, start in zip(replies, starts, strict=True)]

    def unrelated(number: int) -> Example:
        following = [(number + step) % len(examples) for step in range(1, 1 + _FURTHEST)]
        other = next((each for each in following if prompts[each] != prompts[number]), following[0])
        mine, theirs = replies[number], replies[other]
        # As long as the longer of the two at most, so that no sequence is longer than those of the data.
        most = max(len(mine.tokens), len(theirs.tokens))
        tokens = np.concatenate([mine.tokens[: starts[number]], theirs.tokens[starts[other] :]])[:most]
        labels = np.concatenate([mine.labels[: starts[number]], theirs.labels[starts[other] :]])[:most]
        return Example(tokens, labels)

    return tuple(
        Example.of_sides(example.sides[0], example.sides[1], unrelated(number))
        for number, example in enumerate(examples)
    )


def last_reply(example: Example) -> Example:
    """The example with labels on the last run of tokens that count: the assistant's last turn."""
    counts = example.labels != IGNORED
    last = len(counts) - int(counts[::-1].argmax())
    before = np.flatnonzero(~counts[:last])
    first = int(before[-1]) + 1 if len(before) else 0
    labels = np.full_like(example.labels, IGNORED)
    labels[first:last] = example.labels[first:last]
    return replace(example, tokens=example.tokens[:last], labels=labels[:last])
