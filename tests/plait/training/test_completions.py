"""Group relative policy optimisation: its loss is that of the paper, and clients learn from a reward."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import plait
from plait.api.evaluate import _objective_of
from plait.cli.audit import audit
from plait.errors import ConfigError, PlaitError
from plait.ledger.ledger import read_events
from plait.objectives.formula import GRPO, formula_named
from plait.plugins import Kind, reference
from plait.training.bases import locate_base
from plait.training.completions import CompletionGroup, Grader, GroupLoss, completions_of, rewards_of
from plait.training.examples import IGNORED, Example
from plait.training.own_functions import reward_named

HOW = GRPO(group_size=3, max_completion_tokens=5)
SEQ_LEN = 24
PROMPTS = ("def add(", "import ", "The quick")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(locate_base("tiny").directory, trust_remote_code=False)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(
        locate_base("tiny").directory, dtype=torch.float32, trust_remote_code=False
    )
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.fixture(scope="module")
def examples(tokenizer) -> list[Example]:
    answer = tokenizer(" x")["input_ids"]
    asked = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    return [Example.of_sides(of([*tokens, *answer], len(tokens)), None) for tokens in asked]


def of(tokens: list[int], prompt: int) -> Example:
    whole = np.array(tokens, np.int32)
    return Example(whole, np.where(np.arange(len(whole)) < prompt, IGNORED, whole).astype(np.int32))


def grader(tokenizer, reward: Callable) -> Grader:
    return Grader(reward, "mine", tokenizer)


def logs(model, example: Example) -> torch.Tensor:
    tokens = torch.from_numpy(example.tokens.astype(np.int64))[None]
    rows = model(input_ids=tokens).logits[0, :-1].double().log_softmax(dim=-1)
    kept = torch.from_numpy(example.labels[1:] != IGNORED)
    return rows.gather(1, tokens[0, 1:, None])[:, 0][kept]


@pytest.mark.slow
def test_the_loss_is_that_of_the_paper_and_so_is_its_gradient(model, tokenizer):
    """Equations 3 and 4, with ratios on both sides of the clip."""
    completions = [of([5, 17, *range(30, 30 + length)], 2) for length in (2, 3, 1)]
    rewards = [1.0, 0.0, 0.25]
    with torch.no_grad():
        now = [logs(model, each) for each in completions]
        before = [part + torch.linspace(-0.5, 0.5, len(part), dtype=torch.float64) for part in now]
        with model.disable_adapter():
            base = [logs(model, each) for each in completions]
    spread = np.std(rewards) + 1e-4
    each = []
    for example, old, fixed, reward in zip(completions, before, base, rewards, strict=True):
        current = logs(model, example)
        advantage = (reward - np.mean(rewards)) / spread
        ratio = (current - old).exp()
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        divergence = (fixed - current).exp() - (fixed - current) - 1
        each.append((surrogate - 0.3 * divergence).mean())
    expected = -torch.stack(each).mean()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    slopes = torch.autograd.grad(expected, trained)

    work = GroupLoss(model, replace(HOW, beta=0.3), grader(tokenizer, len), seq_len=SEQ_LEN, seed=1)
    loss = work._of(CompletionGroup(completions, rewards, torch.cat(before).float()))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    found = torch.autograd.grad(loss, trained)
    for one, other in zip(found, slopes, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-3, atol=1e-5)
    assert any(slope.abs().max() > 1e-3 for slope in slopes)


@pytest.mark.slow
def test_completions_follow_from_seed_and_prompt_whatever_is_sampled_beside_them(model, tokenizer, examples):
    drawn = completions_of(model, examples, HOW, tokenizer, (3, 0), seq_len=SEQ_LEN)
    assert [len(group) for group in drawn] == [3, 3, 3]
    assert all(0 < len(each) <= 5 for group in drawn for each in group)
    assert completions_of(model, examples[1:2], HOW, tokenizer, (3, 0), seq_len=SEQ_LEN) == drawn[1:2]
    assert completions_of(model, examples, HOW, tokenizer, (3, 1), seq_len=SEQ_LEN) != drawn
    # With the prompt a completion is no longer than a sequence.
    short = len(examples[0].sides[0].tokens)
    assert {len(each) for each in completions_of(model, examples[:1], HOW, tokenizer, (), seq_len=short)[0]} <= {1}
    # They are of the adapter as it is: each likely one is what the model itself continues with.
    cold = replace(HOW, temperature=1e-4)
    greedy = model.generate(
        input_ids=torch.tensor([tokenizer(PROMPTS[1])["input_ids"]]), max_new_tokens=5, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    prompt = len(tokenizer(PROMPTS[1])["input_ids"])
    assert [*completions_of(model, examples[1:2], cold, tokenizer, (), seq_len=SEQ_LEN)[0][0]] == greedy[
        0, prompt:
    ].tolist()


def test_a_completion_without_a_reward_is_left_out_and_counted(model, tokenizer, examples):
    given = iter([1.0, float("nan"), "high", 0.5, 2, np.bool_(1), None, True, float("inf"), *[None] * 9])

    def reward(prompt: str, completion: str, answer: str) -> object:
        assert prompt.strip() in [each.strip() for each in PROMPTS]
        assert answer.strip() == "x"
        return next(given)

    mine = grader(tokenizer, reward)
    work = GroupLoss(model, replace(HOW, beta=0.0), mine, seq_len=SEQ_LEN, seed=1)
    work.begin([examples], 0)
    assert (mine.graded, mine.refused) == (5, 4)
    assert -work.to_report(0.0) == pytest.approx((1.0 + 0.5 + 2 + 1 + 1) / 5)
    assert [len(group.rewards) for group in work._groups.values()] == [1, 3, 1]
    # A completion alone has nothing to be compared with.
    work(examples[:1]).backward()
    assert work(examples[:1]).item() == 0
    assert work(examples[1:2]).requires_grad
    mine.check()
    # A draw without any reward is no reward of 0.
    mean = work.to_report(0.0)
    work.begin([examples], 1)
    assert work.to_report(0.0) == mean


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda *_: float("nan"), "it gave nan, expected a finite number"),
        (lambda *_: "high", "it gave a str, expected a finite number"),
        (lambda *_: 10**400, "it failed: OverflowError"),
        (lambda prompt, *_: {}[prompt], "it failed: KeyError"),
    ],
)
def test_a_reward_that_is_never_a_number_is_one_line_without_the_data(reward, message, model, tokenizer, examples):
    with pytest.raises(
        ConfigError, match=f"reward 'mine' gave no number for any of 3 completions: {message}"
    ) as caught:
        rewards_of(model, examples, grader(tokenizer, reward), HOW, seq_len=SEQ_LEN)
    assert not any(prompt in str(caught.value) for prompt in PROMPTS)


def test_a_reward_and_its_options_are_found_by_name():
    def close(prompt: str, completion: str, answer: str, *, half: float = 0.5) -> float:
        return half if completion else 0.0

    name = reference(Kind.REWARD, close)
    assert reward_named(f"{name}:half=0.25")("", "a", "") == 0.25
    with pytest.raises(ConfigError, match="is given the option 'third'"):
        reward_named(f"{name}:third=1")
    with pytest.raises(ConfigError, match=r"expected \(prompt, completion, answer\)"):
        reward_named(reference(Kind.REWARD, lambda completion: 1.0))
    with pytest.raises(ConfigError, match="is code of the module 'never_named', which this machine's operator did not"):
        reward_named("never_named:reward")
    assert formula_named("grpo:beta=0,reward=a:b:c=1;d=2") == GRPO(beta=0.0, reward="a:b:c=1,d=2")


def digits(prompt: str, completion: str, answer: str) -> float:
    assert "+ 1 =" in prompt
    assert answer.strip().isdigit()
    if completion.startswith("e"):
        raise ValueError(completion)
    return sum(each.isdigit() for each in completion) / max(1, len(completion))


REWARDED = {"name": "grpo", "reward": digits}


@pytest.mark.slow
def test_a_federation_learns_from_a_reward_and_says_so(tmp_path):
    rows = [{"prompt": f"{number} + 1 =", "completion": f" {number + 1}"} for number in range(40)]

    def learn(name: str, **more: object):
        return plait.simulate(
            data=rows, base="tiny", clients=2, local_steps=4, batch_size=4, seq_len=32, rank=4, eval_every=2,
            learning_rate=0.01, objective={**REWARDED, "beta": 0.0, "group_size": 6, "max_completion_tokens": 4},
            out=tmp_path / name, quiet=True, **{"rounds": 2, **more},
        )  # fmt: skip

    run = learn("run")
    rewards = run.updates.groupby("round")["reward"].mean()
    assert rewards.iloc[-1] > rewards.iloc[0] >= 0
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["final_reward"] == -summary["final_held_out_loss"] > summary["base_reward"] >= 0
    assert set(summary["reward_by_client"]) == set(summary["train_reward_by_client"]) == {"client-00", "client-01"}
    assert summary["train_reward_by_round"] == pytest.approx(rewards.tolist())
    updates = [event for event in read_events(run.path / "ledger.jsonl") if event.event == "update_received"]
    assert summary["refused_completions"] == sum(event.refused_completions for event in updates) > 0
    page = (run.path / "report.html").read_text()
    assert "training reward" in page
    assert "had no numeric reward" in page
    (objective,) = {event.config["objective"] for event in read_events(run.path / "ledger.jsonl")[:1]}
    with pytest.raises(ConfigError, match="expected sft: the attacks compare the losses of sequences"):
        audit(run.path, allow=[f"objective={objective}"])
    with pytest.raises(ConfigError, match="is code; if you trust it, add --objective grpo:reward="):
        _objective_of(run.path)
    # The same seed samples and learns the same.
    again = learn("again", rounds=1)
    assert again.updates["reward"].tolist() == run.updates["reward"].tolist()[:2]


def test_what_does_not_go_with_a_reward_is_refused_in_one_line(tmp_path):
    def learn(**settings: object) -> None:
        plait.simulate(data=[{"prompt": "a", "completion": "b"}] * 9, base="tiny", out=tmp_path / "run", **settings)

    for settings, message in (
        ({"objective": "grpo"}, "objective is 'grpo' without a reward, expected grpo:reward=MODULE:FUNCTION"),
        ({"objective": {**REWARDED, "group_size": 1}}, "group_size of objective 'grpo' is '1', expected greater than"),
        ({"objective": REWARDED, "trainer": "mine:build"}, "trainer needs that clients minimise plait's own loss"),
        (
            {"objective": REWARDED, "dropout": 0.1},
            r"expected .* dropout 0.0: .* \(what was sampled is learned by the same",
        ),
        ({"objective": REWARDED, "method": "prompt"}, "completions are sampled without a prompt"),
        ({"objective": {**REWARDED, "beat": 0}}, "did you mean 'beta'"),
    ):
        with pytest.raises(PlaitError, match=message):
            learn(**settings)
