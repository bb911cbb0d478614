"""Rewards for simulations/rewards/run.py: a format, and sums of two digits."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\d+")


def brief(prompt: str, completion: str, answer: str) -> float:
    """The share of a completion's characters that are digits: a bare number is 1."""
    del prompt, answer
    kept = completion.strip()
    return sum(character.isdigit() for character in kept) / len(kept) if kept else 0.0


def right(prompt: str, completion: str, answer: str) -> float:
    """1 for the sum as a bare number; half for text whose first number it is; a tenth for another bare number."""
    del prompt
    kept = completion.strip()
    first = _NUMBER.search(kept)
    exact = first is not None and first.group() == answer.strip()
    return (0.5 if exact else 0.0) + (0.5 if exact and kept.isdigit() else 0.1 if kept.isdigit() else 0.0)
