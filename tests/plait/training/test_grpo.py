"""Group relative policy optimisation: its loss is that of the paper, and a client learns from a reward."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import plait
from plait.adapters import Task
from plait.errors import ConfigError, DataError
from plait.training.bases import locate_base
from plait.training.examples import IGNORED, Example
from plait.training.grpo import GroupTrainer, _Group
from plait.training.losses import BatchLoss
from plait.training.reward import GRPO

ARGS = {
    "learning_rate": 0.005,
    "weight_decay": 0.0,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_steps": 3,
    "max_grad_norm": 1.0,
    "seed": 7,
}
PROMPTS = ("def add(", "import ", "The quick", "return ")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(locate_base("tiny").directory, trust_remote_code=False)


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(
        locate_base("tiny").directory, dtype=torch.float32, trust_remote_code=False
    )
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def data(tokenizer) -> list[dict[str, list[int]]]:
    rows = []
    for prompt in PROMPTS:
        tokens, answer = tokenizer(prompt)["input_ids"], tokenizer(" x")["input_ids"]
        rows.append({"input_ids": tokens + answer, "labels": [IGNORED] * len(tokens) + answer})
    return rows


def spaces(prompt: str, completion: str, answer: str) -> float:
    return completion.count(" ") / max(1, len(completion))


def trainer(model, tokenizer, reward: Callable = spaces, **options: float) -> GroupTrainer:
    made = plait.grpo(**{"group": 6, "max_tokens": 6, **options})(reward)
    assert isinstance(made, GRPO)
    return made(model, tokenizer, data(tokenizer), dict(ARGS))


def logs(model, example: Example) -> torch.Tensor:
    tokens = torch.from_numpy(example.tokens.astype(np.int64))[None]
    rows = model(input_ids=tokens).logits[0, :-1].double().log_softmax(dim=-1)
    kept = torch.from_numpy(example.labels[1:] != IGNORED)
    return rows.gather(1, tokens[0, 1:, None])[:, 0][kept]


def test_the_loss_is_that_of_the_paper_and_so_is_its_gradient(model, tokenizer) -> None:
    """Equations 3 and 4, with ratios on both sides of the clip."""
    model.eval()
    completions = []
    for length in (2, 3, 1):
        tokens = np.array([5, 17, *range(30, 30 + length)], np.int32)
        labels = np.where(np.arange(len(tokens)) < 2, IGNORED, tokens).astype(np.int32)
        completions.append(Example(tokens, labels))
    rewards = np.array([1.0, 0.0, 0.25])
    with torch.no_grad():
        now = [logs(model, each) for each in completions]
        before = [part + torch.linspace(-0.5, 0.5, len(part), dtype=torch.float64) for part in now]
        with model.disable_adapter():
            reference = [logs(model, each) for each in completions]
    spread = rewards.std() + 1e-4
    each = []
    for example, old, base, reward in zip(completions, before, reference, rewards, strict=True):
        current = logs(model, example)
        advantage = (reward - rewards.mean()) / spread
        ratio = (current - old).exp()
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        divergence = (base - current).exp() - (base - current) - 1
        each.append((surrogate - 0.3 * divergence).mean())
    expected = -torch.stack(each).mean()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    slopes = torch.autograd.grad(expected, trained)

    group = _Group(completions, rewards, torch.cat(before).float())
    losses = BatchLoss(model, task=Task.CAUSAL_LM, pad_token=0)
    loss = trainer(model, tokenizer, beta=0.3)._loss(group, losses)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    found = torch.autograd.grad(loss, trained)
    for one, other in zip(found, slopes, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-3, atol=1e-5)
    assert any(slope.abs().max() > 1e-3 for slope in slopes)


@pytest.mark.slow
def test_the_same_seed_learns_the_same_and_another_another(model, tokenizer) -> None:
    torch.manual_seed(1)  # whatever the process's own state is
    first, second, third = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    one = trainer(first, tokenizer, iterations=2)
    reported = one.train().training_loss
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = trainer(second, tokenizer, iterations=2)
    assert again.train().training_loss == reported
    assert torch.equal(torch.get_rng_state(), state)
    other = trainer(third, tokenizer, iterations=2)
    other.args["seed"] = 8
    other.train()
    values = [
        torch.cat([parameter.detach().flatten() for parameter in each.parameters() if parameter.requires_grad])
        for each in (first, second, third)
    ]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    # Minus the mean reward of what was sampled; of the first step, before any training.
    assert -1 <= reported <= 0
    assert -1 <= one.state.log_history[0]["loss"] <= 0


@pytest.mark.slow
def test_a_reward_rises(model, tokenizer) -> None:
    made = trainer(model, tokenizer, group=16, beta=0.0)
    made.args |= {"max_steps": 12, "learning_rate": 0.02}
    made.train()
    after = trainer(model, tokenizer, group=16)
    after.args |= {"max_steps": 1, "learning_rate": 0.0}
    assert -after.train().training_loss > 2 * -made.state.log_history[0]["loss"]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda *_: float("nan"), "gave nan, expected a finite number"),
        (lambda *_: "high", "gave a str, expected a finite number"),
        (lambda prompt, *_: {}[prompt], "failed: KeyError"),
    ],
)
def test_a_reward_that_is_no_number_is_one_line_without_the_data(reward, message: str, model, tokenizer) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        trainer(model, tokenizer, reward).train()
    assert not any(prompt in str(caught.value) for prompt in PROMPTS)


def test_what_cannot_be_is_refused(model, tokenizer) -> None:
    with pytest.raises(ConfigError, match="group of grpo is '1'"):
        plait.grpo(group=1)
    with pytest.raises(ConfigError, match="given the option 'groups'"):
        plait.grpo(groups=3)
    made = trainer(model, tokenizer)
    made.data = [{"input_ids": [1, 2], "labels": [1, 2]}]
    with pytest.raises(DataError, match="has no prompt"):
        made.train()


@pytest.mark.slow
def test_a_federation_learns_from_a_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, as from the command line; its ledger has the reward of every client and round."""
    lines = [{"prompt": f"{number} + 1 =", "completion": f" {number + 1}"} for number in range(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "my_reward.py").write_text(
        "import plait\n\n\n@plait.grpo(group=6, max_tokens=4, beta=0.0)\n"
        "def digits(prompt, completion, answer):\n"
        "    assert '+ 1 =' in prompt and answer.strip().isdigit()\n"
        "    return sum(each.isdigit() for each in completion) / max(1, len(completion))\n"
    )
    monkeypatch.chdir(tmp_path)
    run = plait.simulate(
        data="sums.jsonl", base="tiny", clients=2, rounds=2, local_steps=4, batch_size=4, seq_len=32, rank=4,
        learning_rate=0.01, trainer="my_reward:digits", take_back=False, out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    rewards = -run.updates.groupby("round")["first_loss"].mean()
    assert rewards.iloc[-1] > rewards.iloc[0] >= 0
    assert len(run.updates) == 4
