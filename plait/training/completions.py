"""Learning from a reward: completions of a step's prompts, sampled from the current adapter, and their group's loss.

Completions follow from the seed, the step and the prompt.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import numpy as np
import torch
from torch import nn

from plait.data import Record, RecordKind
from plait.errors import PartError
from plait.objectives.formula import GRPO, formula_named
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.local_model import Trained
from plait.settings.choice import parse_choice
from plait.training.conversations import converse
from plait.training.device import device_of
from plait.training.examples import IGNORED, Example, Tokenizer, digest_of, prompt_tokens
from plait.training.generate import Sampling, Wanted, context_of, generate, writer_of
from plait.training.learner import TrainingInputs
from plait.training.losses import BatchLoss, StepLoss, StepMemory
from plait.training.own_functions import Reward, reward_named, value_of
from plait.training.preferences import without_adapter
from plait.training.trainer import TrainingObjective
from plait.wire.settings import Settings


class Rewards(TrainingObjective):
    """A reward of the user's own; one example counts as one prompt, whatever is sampled."""

    kinds = frozenset({RecordKind.PROMPT, RecordKind.CHAT})
    expected = "prompts with completions, or messages, for objective 'grpo'"

    def __init__(self, text: str) -> None:
        self._formula = cast("GRPO", formula_named(text))

    def examples(
        self, records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int
    ) -> list[Example]:
        """Prompts, with the completion that the record has."""
        found = converse(records, kind, tokenizer, seq_len)
        return [replace(Example.of_sides(last_reply(each), None), record=each.record) for each in found]

    def loss(
        self, model: nn.Module, parameters: Sequence[nn.Parameter], inputs: TrainingInputs, memory: StepMemory
    ) -> StepLoss:
        """See `GroupLoss`."""
        del parameters
        if inputs.tokenizer is None:
            raise ValueError("a reward reads text, so a tokenizer is needed")
        grader, settings = Grader.named(self._formula.reward, inputs.tokenizer), inputs.settings
        return GroupLoss(model, self._formula, grader, seq_len=settings.seq_len, seed=settings.seed, memory=memory)

    def measured(
        self, model: nn.Module, examples: Sequence[Example], settings: Settings, tokenizer: Tokenizer
    ) -> SequenceLosses:
        """Minus the reward of one completion of each; one that has none counts for nothing."""
        model.eval()
        grader = Grader.named(self._formula.reward, tokenizer)
        rewards = rewards_of(model, examples, grader, self._formula, seq_len=settings.seq_len)
        return SequenceLosses(
            tuple(0.0 - (each or 0.0) for each in rewards),
            tuple(int(each is not None) for each in rewards),
            digest=digest_of(examples).hex(),
        )


@dataclass
class Grader:
    """A reward at work on tokens, and what became of the completions."""

    reward: Reward
    name: str
    tokenizer: Tokenizer
    graded: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    _why: PartError | None = field(default=None, init=False)

    @classmethod
    def named(cls, text: str, tokenizer: Tokenizer) -> Self:
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
                self._why = self._why or error
                found.append(None)
        self.refused += sum(each is None for each in found)
        self.graded += sum(each is not None for each in found)
        return found

    def check(self) -> None:
        """Refuse a reward that teaches nothing: not one completion had any."""
        if self._why and not self.graded:
            failed = f"reward '{self.name}' gave no number for any of {self.refused} completions: "
            raise PartError(f"{failed}{self._why}", failed + self._why.in_full)

    def _text(self, tokens: Sequence[int]) -> str:
        return cast("Any", self.tokenizer).decode([*tokens], skip_special_tokens=True)


@dataclass(eq=False)
class CompletionGroup:
    """Completions of one prompt, with rewards and log-probabilities when sampled and under the base."""

    completions: list[Example]
    rewards: list[float]
    before: torch.Tensor | None = None
    reference: torch.Tensor | None = None


class GroupLoss(StepLoss):
    """The loss of a step's prompts, of which completions are sampled before it, in evaluation mode."""

    without_dropout = True
    in_whole = True  # one prompt's completions are sequences enough for a pass
    is_limited = False

    def __init__(
        self,
        model: torch.nn.Module,
        objective: GRPO,
        grader: Grader,
        *,
        seq_len: int,
        seed: int,
        memory: StepMemory | None = None,
    ) -> None:
        self._model, self._objective, self._grader, self._seq_len = model, objective, grader, seq_len
        self._losses = BatchLoss(model, memory=memory)
        self._seed = seed
        self._groups: dict[bytes, CompletionGroup] = {}
        self._rewards: list[float] = []
        self.recomputes = self._losses.recomputes

    def draws(self, step: int) -> bool:
        """Whether a step has completions of its own."""
        return step % self._objective.num_iterations == 0

    def begin(self, batches: Sequence[Sequence[Example]], step: int) -> None:
        """Sample completions of a step's prompts."""
        examples = {example.digest: example for batch in batches for example in batch}
        asked = [*examples.values()]
        drawn = completions_of(
            self._model, asked, self._objective, self._grader.tokenizer, (self._seed, step), seq_len=self._seq_len
        )
        self._groups.clear()
        for (digest, example), completions in zip(examples.items(), drawn, strict=True):
            rewards = self._grader.grade(asked_of(example), completions)
            kept = [(each, reward) for each, reward in zip(completions, rewards, strict=True) if reward is not None]
            self._groups[digest] = CompletionGroup(
                [_completed(prompt_tokens(asked_of(example)), each) for each, _ in kept], [reward for _, reward in kept]
            )
        found = [reward for group in self._groups.values() for reward in group.rewards]
        if found:
            self._rewards.append(float(np.mean(found)))

    def to_report(self, loss: float) -> float:
        """Minus the mean reward of the last draw with any: advantages are centred, so the loss means nothing."""
        del loss
        return 0.0 - (self._rewards[-1] if self._rewards else 0.0)

    def finished(self, done: Trained) -> Trained:
        """With the mean reward, and how many completions had none."""
        self._grader.check()
        reward, refused = float(np.mean(self._rewards)), self._grader.refused
        return replace(done, report=replace(done.report, reward=reward, refused_completions=refused))

    def __call__(self, batch: Sequence[Example], /) -> torch.Tensor:
        """See `StepLoss`."""
        found = [self._of(self._groups[example.digest]) for example in batch]
        return torch.stack(found).sum()

    def _of(self, group: CompletionGroup) -> torch.Tensor:
        advantages = self._objective.advantages(group.rewards) if len(group.rewards) > 1 else []
        if not advantages or not (any(advantages) or self._objective.beta):
            # Its completions do not differ.
            return torch.zeros((), device=device_of(self._model), requires_grad=True)
        minus, counts = self._losses.by_token(group.completions)
        now = -minus
        if group.before is None:
            group.before = now.detach()
        if group.reference is None and self._objective.beta:
            with without_adapter(self._model):
                group.reference = -BatchLoss(self._model).by_token(group.completions)[0]
        return self._objective.loss(now, group.before, group.reference, advantages, counts)


@torch.no_grad()
def rewards_of(
    model: torch.nn.Module, examples: Sequence[Example], grader: Grader, how: GRPO, *, seq_len: int
) -> list[float | None]:
    """The reward of one completion of each example, the same draws whenever it is asked; None for one refused."""
    drawn = completions_of(model, examples, replace(how, group_size=1), grader.tokenizer, (), seq_len=seq_len)
    found = [grader.grade(asked_of(example), each)[0] for example, each in zip(examples, drawn, strict=True)]
    grader.check()
    return found


def completions_of(
    model: torch.nn.Module,
    examples: Sequence[Example],
    how: GRPO,
    tokenizer: Tokenizer,
    seed: tuple[int, ...],
    *,
    seq_len: int,
) -> list[list[tuple[int, ...]]]:
    """The tokens of a group of completions of each example, of `seq_len` with the prompt at most."""
    whole = writer_of(model)
    context = min(seq_len, context_of(whole) or seq_len)
    wanted: list[Wanted] = []
    for example in examples:
        prompt = prompt_tokens(asked_of(example))
        room = max(1, min(how.max_completion_tokens, context - len(prompt)))
        wanted += [Wanted(prompt, room, _seed_of(seed, example, member)) for member in range(how.group_size)]
    made = generate(whole, tokenizer, wanted, Sampling(how.temperature))
    return [made[first : first + how.group_size] for first in range(0, len(made), how.group_size)]


def _seed_of(seed: tuple[int, ...], example: Example, member: int) -> int:
    text = f"{'/'.join(map(str, seed))}/{member}/".encode() + example.digest
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def asked_of(example: Example) -> Example:
    """The prompt and the completion of an example of `Rewards`."""
    side = example.sides[0]
    if side is None:
        raise ValueError("the example has no prompt")
    return side


def _completed(prompt: Sequence[int], completion: Sequence[int]) -> Example:
    tokens = np.array([*prompt, *completion], np.int32)
    labels = tokens.copy()
    labels[: len(prompt)] = IGNORED
    return Example(tokens, labels)


def last_reply(example: Example) -> Example:
    """An example up to its last reply, of which alone the labels count."""
    counts = example.labels != IGNORED
    last = len(counts) - int(counts[::-1].argmax())
    before = np.flatnonzero(~counts[:last])
    first = int(before[-1]) + 1 if len(before) else 0
    labels = np.full_like(example.labels, IGNORED)
    labels[first:last] = example.labels[first:last]
    return replace(example, tokens=example.tokens[:last], labels=labels[:last])
