"""Group relative policy optimisation: a round of one client's training, from a reward (see `reward.py`).

Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", arXiv 2402.03300,
eqs. 3 and 4 with outcome rewards (section 4.1.2): of every prompt a group of completions is sampled, each one's
advantage is its reward, standardised within the group, and the clipped surrogate, less beta times the divergence from
the base without the adapter, is maximised. The reported loss is minus the mean reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel

from plait.abandon import check_abandoned
from plait.adapters import Task
from plait.errors import ConfigError, DataError
from plait.plugins import located_errors
from plait.training.examples import IGNORED, Example, Tokenizer
from plait.training.learner import order
from plait.training.losses import BatchLoss
from plait.training.preferences import without_adapter
from plait.training.reward import Options, Reward

# Added to a group's standard deviation, so that equal rewards divide by no zero; that of TRL.
_LEAST_SPREAD = 1e-4


@dataclass(frozen=True)
class _Prompt:
    """A record: tokens, and the texts that its reward is computed from."""

    tokens: tuple[int, ...]
    text: str
    answer: str


@dataclass
class _Group:
    """Completions of one prompt.

    Attributes:
        completions: prompt and completion, with labels on the completion.
        rewards: (group,)
        before: log-probabilities of their tokens when they were sampled, once known.
    """

    completions: list[Example]
    rewards: np.ndarray[tuple[int], np.dtype[np.float64]]
    before: torch.Tensor | None = None

    @property
    def advantages(self) -> list[float]:
        """Rewards, standardised within the group (section 4.1.2)."""
        return ((self.rewards - self.rewards.mean()) / (self.rewards.std() + _LEAST_SPREAD)).tolist()


@dataclass(eq=False)
class GroupTrainer:
    """A trainer of one round, with the part of transformers' interface that plait asks for."""

    model: PeftModel
    tokenizer: Tokenizer
    data: object
    args: dict[str, Any]
    reward: Reward
    options: Options
    state: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(log_history=[]))

    def train(self) -> SimpleNamespace:
        """Train the model's adapter in place.

        Raises:
            ConfigError: the reward fails, or gives anything but a finite number.
            DataError: a record has no prompt.
            Abandoned: nobody waits for this any more.
        """
        args, options = self.args, self.options
        device = self.model.device
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=args["learning_rate"], weight_decay=args["weight_decay"])
        losses = BatchLoss(self.model, task=Task.CAUSAL_LM, pad_token=self._pad_token)
        prompts = _prompts(self.data, self.tokenizer)
        visited = order(len(prompts), args["seed"])
        many = args["per_device_train_batch_size"] * args["gradient_accumulation_steps"]
        means: list[float] = []
        groups: list[_Group] = []
        # No dropout: a ratio to what was sampled would be of two different models.
        self.model.eval()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(args["seed"])
            for step in range(args["max_steps"]):
                if step % options.iterations == 0:
                    groups = [self._sampled(prompts[next(visited)]) for _ in range(many)]
                    means.append(float(np.mean([group.rewards for group in groups])))
                optimizer.zero_grad()
                for group in groups:
                    (self._loss(group, losses) / len(groups)).backward()
                torch.nn.utils.clip_grad_norm_(trained, args["max_grad_norm"])
                optimizer.step()
                check_abandoned()
        self.state.log_history.append({"loss": -means[0]})
        return SimpleNamespace(training_loss=-float(np.mean(means)))

    @property
    def _pad_token(self) -> int:
        tokenizer = self.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    @torch.no_grad()
    def _sampled(self, prompt: _Prompt) -> _Group:
        """A group of completions of a prompt, from the model as it is, with their rewards."""
        device = self.model.device
        tokens = torch.tensor([prompt.tokens], device=device)
        rows = cast("Any", self.model).generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True,
            temperature=float(self.options.temperature),
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.options.max_tokens,
            num_return_sequences=self.options.group,
            pad_token_id=self._pad_token,
        )
        completions, rewards = [], []
        for row in rows[:, len(prompt.tokens) :].tolist():
            made = self._ended(row)
            text = cast("Any", self.tokenizer).decode(made, skip_special_tokens=True)
            rewards.append(self._rewarded(prompt, text))
            whole = np.array([*prompt.tokens, *made], np.int32)
            labels = whole.copy()
            labels[: len(prompt.tokens)] = IGNORED
            completions.append(Example(whole, labels))
        return _Group(completions, np.array(rewards, np.float64))

    def _ended(self, row: Sequence[int]) -> list[int]:
        """A completion up to its first end of text, which is learned too."""
        ends = cast("Any", self.model).generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else {*(ends or ())} | {self.tokenizer.eos_token_id}
        stop = next((index + 1 for index, token in enumerate(row) if token in ends), len(row))
        return list(row[:stop])

    def _rewarded(self, prompt: _Prompt, completion: str) -> float:
        name = getattr(self.reward, "__name__", "reward")
        with located_errors(f"reward '{name}' failed", quoting=False):
            found = cast("object", self.reward(prompt.text, completion, prompt.answer))
        number = float(found) if isinstance(found, bool | int | float | np.number) else math.nan
        if not math.isfinite(number):
            kind = str(found) if isinstance(found, float) else f"a {type(found).__name__}"
            raise ConfigError(f"reward '{name}' gave {kind}, expected a finite number")
        return number

    def _loss(self, group: _Group, losses: BatchLoss) -> torch.Tensor:
        """Minus equation 3 for one prompt: a mean over completions of means over their tokens."""
        options = self.options
        minus, counts = losses.by_token(group.completions)
        now = -minus
        if group.before is None:
            group.before = now.detach()
        each = zip(group.advantages, counts, strict=True)
        advantages = torch.cat([torch.full((count,), advantage) for advantage, count in each]).to(now.device)
        ratio = (now - group.before).exp()
        clipped = ratio.clamp(1 - options.clip, 1 + options.clip)
        gain = torch.minimum(ratio * advantages, clipped * advantages)
        if options.beta:
            with without_adapter(self.model):
                base = BatchLoss(self.model, task=Task.CAUSAL_LM, pad_token=self._pad_token)
                reference = -base.by_token(group.completions)[0]
            ahead = reference - now
            # Equation 4: unbiased, and never negative.
            gain = gain - options.beta * (ahead.exp() - ahead - 1)
        return -torch.stack([part.mean() for part in gain.split(counts)]).mean()


def _prompts(data: object, tokenizer: Tokenizer) -> list[_Prompt]:
    found: list[_Prompt] = []
    decode = cast("Any", tokenizer).decode
    for row in cast("Sequence[dict[str, list[int]]]", data):
        tokens, labels = row["input_ids"], row["labels"]
        first = next((index for index, label in enumerate(labels) if label != IGNORED), 0)
        if not first:
            raise DataError("a record has no prompt, expected prompts with completions for a reward")
        answer = [label for label in labels[first:] if label != IGNORED]
        texts = (decode(part, skip_special_tokens=True) for part in (tokens[:first], answer))
        found.append(_Prompt(tuple(tokens[:first]), *texts))
    return found
