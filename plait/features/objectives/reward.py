"""What a completion is worth: a function of the user's own, chosen by `--objective grpo:reward=…`.

    def right(prompt, completion, answer, *, close: float = 0.0) -> float:
        return 1.0 if completion.strip() == answer.strip() else close

`prompt` is as the model reads it, with what a chat template adds; `answer` is the record's own completion, from which
nothing else learns. Knows no tokens (`grader.py` does), so that a name is checked early.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np

from plait.choice import parse_choice, with_options
from plait.errors import PartError
from plait.own_code import located_errors
from plait.own_function import chosen_function
from plait.plugins import Kind, find

Reward = Callable[[str, str, str], object]
"""From the texts of a prompt, of a completion, and of the completion that the record has, to a number."""

_TAKES = ("prompt", "completion", "answer")


def reward_named(text: str) -> Reward:
    """The reward that ``grpo:reward=…`` names, with its options.

    Raises:
        ConfigError: there is none, its import is not allowed here, it is no function of (prompt, completion, answer),
            or an option is wrong.
    """
    name, options = parse_choice(text)
    what = f"reward '{name}'"
    found = find(Kind.REWARD, name)
    if not callable(found):
        raise PartError(f"{what} is a {type(found).__name__}, expected a function of ({', '.join(_TAKES)})")
    return cast("Reward", with_options(chosen_function(found, _TAKES, what=what), options, what=what))


def value_of(reward: Reward, prompt: str, completion: str, answer: str) -> float:
    """The reward of one completion.

    Raises:
        PartError: the reward raises, or gives anything but a finite number; without the texts.
    """
    with located_errors("it failed", quoting=False):
        found = reward(prompt, completion, answer)
        number = float(found) if isinstance(found, bool | int | float | np.bool_ | np.number) else math.nan
    if not math.isfinite(number):
        kind = str(number) if isinstance(found, float | np.floating) else f"a {type(found).__name__}"
        raise PartError(f"it gave {kind}, expected a finite number")
    return number
