"""Preferences and prompts as token sequences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from plait.data import Record
from plait.training.conversations import conversation
from plait.training.examples import IGNORED, Example, Tokenizer


def judged(record: Record, tokenizer: Tokenizer, seq_len: int) -> Example | None:
    """A preference; None if one of its replies begins beyond the sequence length, or both are cut to the same."""
    chosen, rejected = (
        conversation(record.messages, reply, tokenizer, seq_len) for reply in (record.chosen, record.rejected)
    )
    if chosen is None or rejected is None or chosen.digest == rejected.digest:
        return None
    return Example.of_sides(chosen, rejected)


def last_reply(example: Example) -> Example:
    """The example with labels on the last run of tokens that count: the assistant's last turn."""
    counts = example.labels != IGNORED
    last = len(counts) - int(counts[::-1].argmax())
    before = np.flatnonzero(~counts[:last])
    first = int(before[-1]) + 1 if len(before) else 0
    labels = np.full_like(example.labels, IGNORED)
    labels[first:last] = example.labels[first:last]
    return replace(example, tokens=example.tokens[:last], labels=labels[:last])
