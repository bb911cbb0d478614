"""Text is transformers' own, drawn by seeds of its own, whatever is generated beside it."""

from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from plait.errors import Abandoned, ConfigError, MachineError
from plait.training import generate as module
from plait.training.bases import LocatedBase
from plait.training.examples import Tokenizer
from plait.training.generate import Sampling, Wanted, generate

PROMPTS = ("def add(left, right):", "import ", "The quick brown fox")


@pytest.fixture
def model(tiny: LocatedBase):
    found = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)
    return found.eval()


@pytest.fixture
def prompts(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    return [tuple(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]  # type: ignore[arg-type]


def test_without_temperature_each_text_is_the_likeliest_that_transformers_finds_for_it_alone(model, tokenizer, prompts):
    # Neither a base's own settings nor what stands beside it count.
    model.generation_config = GenerationConfig(repetition_penalty=5.0, do_sample=True, top_k=3)
    together = generate(model, tokenizer, [Wanted(prompt, 6, 1) for prompt in prompts], Sampling())
    assert model.generation_config.repetition_penalty == 5.0
    model.generation_config = GenerationConfig()
    for prompt, made in zip(prompts, together, strict=True):
        alone = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert made == tuple(alone[0, len(prompt) :].tolist())


def test_a_text_follows_from_its_seed_whatever_is_beside_it(model, tokenizer, prompts):
    wanted = [Wanted(prompt, 5 + number % 2, number) for number, prompt in enumerate(prompts * 2)]
    together = generate(model, tokenizer, wanted, Sampling(1.0, 0.9))
    assert [len(made) for made in together] == [each.max_tokens for each in wanted]
    assert [generate(model, tokenizer, [each], Sampling(1.0, 0.9))[0] for each in wanted] == together
    assert together[0] != together[3], "another seed"


def test_tokens_are_drawn_as_often_as_they_are_likely(model, tokenizer, prompts):
    prompt, draws = prompts[1], 2000
    with torch.no_grad():
        likely = (model(torch.tensor([prompt])).logits[0, -1] / 0.5).softmax(dim=0)
    drawn = generate(model, tokenizer, [Wanted(prompt, 1, seed) for seed in range(draws)], Sampling(0.5))
    counts = Counter(token for (token,) in drawn)
    for token in likely.topk(5).indices.tolist():
        expected = draws * likely[token].item()
        assert abs(counts[token] - expected) < 5 * expected**0.5
    # The likeliest tokens that together have the probability, and no other.
    ranked = likely.sort(descending=True)
    before = ranked.values.cumsum(0) - ranked.values
    kept = set(ranked.indices[before < 0.6].tolist())
    narrow = generate(model, tokenizer, [Wanted(prompt, 1, seed) for seed in range(300)], Sampling(0.5, 0.6))
    assert {token for (token,) in narrow} <= kept


def test_a_text_ends_with_the_bases_end_and_what_is_shown_is_the_text(model, tokenizer, prompts):
    (whole,) = generate(model, tokenizer, [Wanted(prompts[0], 6, 0)], Sampling())
    end = whole[2]
    model.generation_config.eos_token_id = [end]
    shown: list[str] = []
    (ended,) = generate(model, tokenizer, [Wanted(prompts[0], 6, 0)], Sampling(), shown.append)
    assert ended == whole[: whole.index(end) + 1]
    assert "".join(shown) == tokenizer.decode(list(ended), skip_special_tokens=True)


def test_texts_end_when_their_time_is_over(model, tokenizer, prompts):
    whole = generate(model, tokenizer, [Wanted(prompt, 6, 0) for prompt in prompts], Sampling())
    ended = generate(model, tokenizer, [Wanted(prompt, 6, 0) for prompt in prompts], Sampling(), limit_s=0)
    assert ended == [text[:1] for text in whole]


def test_no_prompt_takes_a_copy_of_the_heads_weight(model, tokenizer, prompts):
    contiguous: list[bool] = []
    hook = model.lm_head.register_forward_hook(lambda _head, given, _rows: contiguous.append(given[0].is_contiguous()))
    generate(model, tokenizer, [Wanted(prompt, 2, 0) for prompt in prompts], Sampling())
    hook.remove()
    assert contiguous == [True, True]


def test_what_cannot_be_written_is_one_line(model, tokenizer, prompts, monkeypatch):
    with pytest.raises(ConfigError, match="the prompt is empty"):
        generate(model, tokenizer, [Wanted((), 1, 0)], Sampling())
    with pytest.raises(ConfigError, match=r"are 2 \+ 100000, expected at most \d+, the context of this base"):
        generate(model, tokenizer, [Wanted((1, 2), 100_000, 0)], Sampling())
    torch.nn.init.constant_(model.get_output_embeddings().weight, float("nan"))
    with pytest.raises(MachineError, match="a logit is not finite"):
        generate(model, tokenizer, [Wanted(prompts[0], 1, 0)], Sampling(1.0))

    def abandoned() -> None:
        raise Abandoned("enough")

    monkeypatch.setattr(module, "check_abandoned", abandoned)
    with pytest.raises(Abandoned):
        generate(model, tokenizer, [Wanted(prompts[0], 1, 0)], Sampling())
