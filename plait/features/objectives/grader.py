"""A reward at work on tokens: what each completion is worth, and how many had to be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from plait.choice import parse_choice
from plait.errors import PartError
from plait.features.objectives.reward import Reward, reward_named, value_of
from plait.training.examples import IGNORED, Example, Tokenizer, prompt_tokens


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
