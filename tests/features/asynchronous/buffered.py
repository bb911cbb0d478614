"""Federations of the round loop's tests with asynchronous rounds."""

from __future__ import annotations

from functools import partial

from plait.rounds.buffer import Buffer
from plait.rounds.buffer_collector import of_buffer


def rounds_of(buffer: Buffer) -> dict[str, object]:
    """What a federation is made with so that its rounds are buffers like this one."""
    return {"exchange": partial(of_buffer, buffer=buffer), "folds": buffer.size, "measures_pace": True}
