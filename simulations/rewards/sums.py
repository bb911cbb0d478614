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
    """Half for a completion whose last number is the sum, and half for the share of digits: the sum alone is 1."""
    numbers = _NUMBER.findall(completion)
    exact = bool(numbers) and numbers[-1] == answer.strip()
    return 0.5 * exact + 0.5 * brief(prompt, completion, answer)
