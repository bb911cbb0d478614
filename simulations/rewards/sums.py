"""Rewards for simulations/rewards/run.py: a format, and sums of two digits."""

from __future__ import annotations

import re

import plait

_NUMBER = re.compile(r"\d+")


@plait.grpo(group=8, max_tokens=8, beta=0.0)
def brief(prompt: str, completion: str, answer: str) -> float:
    """The share of a completion's characters that are digits: a bare number is 1."""
    del prompt, answer
    kept = completion.strip()
    return sum(character.isdigit() for character in kept) / len(kept) if kept else 0.0


@plait.grpo(group=8, max_tokens=8, beta=0.01)
def right(prompt: str, completion: str, answer: str) -> float:
    """1 for a completion whose first number is the sum, a tenth for one that is a number alone."""
    del prompt
    first = _NUMBER.search(completion)
    exact = first is not None and first.group() == answer.strip()
    return float(exact) + 0.1 * (completion.strip().isdigit())
