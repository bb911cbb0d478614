"""What a completion is worth: a function of the user's own, chosen by `--objective grpo:reward=…`.

    def right(prompt, completion, answer, *, close: float = 0.0) -> float:
        return 1.0 if completion.strip() == answer.strip() else close

`prompt` is as the model reads it, with what a chat template adds; `answer` is the record's own completion, from which
nothing else learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from plait.choice import parse_choice, with_options
from plait.errors import PartError
from plait.own_code import chosen_function, located_errors
from plait.plugins import Kind, find
from plait.training.examples import IGNORED, Example, Tokenizer, prompt_tokens

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


@dataclass
class Grader:
    """A reward at work on tokens, and what became of the completions."""

    reward: Reward
    name: str
    tokenizer: Tokenizer
    graded: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    _why: str = field(default="", init=False)

    @classmethod
    def named(cls, text: str, tokenizer: Tokenizer) -> Grader:
        """The run's own; see `reward_named`."""
        return cls(reward_named(text), parse_choice(text)[0], tokenizer)

    def grade(self, example: Example, completions: Sequence[Sequence[int]]) -> list[float | None]:
        """The reward of each completion of an example's prompt; None for one that is refused."""
        asked = prompt_tokens(example)
        prompt = self._text(asked)
        answer = self._text([int(label) for label in example.labels if label != IGNORED])
        found: list[float | None] = []
        for tokens in completions:
            try:
                found.append(value_of(self.reward, prompt, self._text(tokens), answer))
            except PartError as error:
                self._why = self._why or str(error)
                found.append(None)
        self.refused += sum(each is None for each in found)
        self.graded += sum(each is not None for each in found)
        return found

    def check(self) -> None:
        """Refuse a reward that teaches nothing.

        Raises:
            PartError: not one completion had a reward.
        """
        if self.refused and not self.graded:
            raise PartError(f"reward '{self.name}' gave no number for any of {self.refused} completions: {self._why}")

    def _text(self, tokens: Sequence[int]) -> str:
        return cast("Any", self.tokenizer).decode([*tokens], skip_special_tokens=True)
