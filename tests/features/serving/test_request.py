from __future__ import annotations

import pytest

from plait.adapters import Json
from plait.errors import ConfigError
from plait.features.serving.request import ChatRequest, CompletionRequest, parse


def test_what_is_left_out_has_the_apis_defaults() -> None:
    wish = parse(CompletionRequest, {"model": "m", "prompt": "x"})
    assert wish.prompts == ["x"]
    assert (wish.max_tokens, wish.temperature, wish.top_p, wish.seed, wish.choices) == (16, 1.0, 1.0, None, 1)
    assert (wish.stop, wish.stream, wish.stream_options.include_usage, wish.ignore_end) == ((), False, False, False)
    assert parse(ChatRequest, {"model": "m", "messages": [{"role": "user", "content": "x"}]}).max_tokens is None


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_prompt_comes_in_four_shapes(prompt: Json, expected: list[object]) -> None:
    assert parse(CompletionRequest, {"model": "m", "prompt": prompt}).prompts == expected


@pytest.mark.parametrize("prompt", [None, [], 3, [None], ["a", 1], [[]], [1.5], [True], ["x"] * 65, {"a": "b"}])
def test_any_other_prompt_is_refused(prompt: Json) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        parse(CompletionRequest, {"model": "m", "prompt": prompt})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("model", 3),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_completion_tokens", -1),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("seed", "x"),
        ("seed", 2**70),
        ("stop", 3),
        ("stop", ["a", 3]),
        ("stop", ["a"] * 17),
        ("n", 0),
        ("n", 17),
        ("stream", "yes"),
        ("stream_options", [1]),
        ("stream_options", {"include_usage": 2}),
        ("ignore_eos", "no"),
        ("echo", True),
        ("suffix", "s"),
        ("logprobs", 0),
        ("logprobs", True),
        ("best_of", 2),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("logit_bias", {"3": 1}),
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_by_name(field: str, value: Json) -> None:
    bodies: tuple[tuple[type[CompletionRequest | ChatRequest], dict[str, Json]], ...] = (
        (CompletionRequest, {"prompt": "x"}),
        (ChatRequest, {"messages": [{"role": "user", "content": "x"}]}),
    )
    for kind, rest in bodies:
        with pytest.raises(ConfigError, match=f"{field}|include_usage"):
            parse(kind, {"model": "m", **rest, field: value})


def test_what_asks_for_nothing_is_let_through() -> None:
    nothing: dict[str, Json] = {
        "echo": False, "logprobs": None, "best_of": 1, "frequency_penalty": 0.0, "logit_bias": {}, "tools": [],
        "response_format": {"type": "text"}, "user": "me", "metadata": {}, "store": False,
    }  # fmt: skip
    parse(CompletionRequest, {"model": "m", "prompt": "x", **nothing})


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "x",
        [3],
        [{"content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
    ],
)
def test_messages_without_text_are_refused(messages: Json) -> None:
    with pytest.raises(ConfigError, match="message"):
        parse(ChatRequest, {"model": "m", "messages": messages})


def test_no_more_of_a_prompt_than_its_beginning_is_in_an_error() -> None:
    with pytest.raises(ConfigError) as refused:
        parse(CompletionRequest, {"model": "m", "prompt": {"secret": "x" * 1000}})
    assert len(str(refused.value)) < 200
