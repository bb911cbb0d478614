"""A request of the OpenAI API, checked: an unsupported feature is refused, never ignored.

Knows no HTTP and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from plait.adapters import Json
from plait.errors import ConfigError

Body: TypeAlias = Mapping[str, Json]

_MAX_PROMPTS = 64
_MAX_CHOICES = 16
_MAX_STOPS = 16
_COMPLETION_TOKENS = 16  # OpenAI's own default
_COLDEST = 1e-4  # below it, dividing by the temperature overflows, and only the likeliest token would be drawn

# Features of the API that this server does not have: the values that do not ask for them.
_NOTHING: Mapping[str, tuple[Json, ...]] = {
    "echo": (None, False),
    "suffix": (None, ""),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "audio": (None,),
    "prediction": (None,),
}


@dataclass(frozen=True)
class Wish:
    """The common part of both kinds of request.

    Attributes:
        max_tokens: most tokens to make; None for as many as the context holds.
        temperature: 0 for the likeliest text.
        seed: of the draws, or None.
        stream: whether to send pieces as they come.
        usage_in_stream: whether the last piece has the token counts.
        ignore_end: whether to continue past the end of a text (an extension that vLLM also has).
    """

    model: str
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    choices: int
    stream: bool
    usage_in_stream: bool
    ignore_end: bool


@dataclass(frozen=True)
class CompletionRequest:
    """Body of ``POST /v1/completions``."""

    wish: Wish
    prompts: tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True)
class ChatRequest:
    """Body of ``POST /v1/chat/completions``."""

    wish: Wish
    messages: tuple[Mapping[str, str], ...]


def parse_completion(body: Body) -> CompletionRequest:
    """Read the body of a completion.

    Raises:
        ConfigError: it is invalid, or asks for an unsupported feature.
    """
    return CompletionRequest(_wish(body, max_tokens=_COMPLETION_TOKENS), _prompts(body.get("prompt")))


def parse_chat(body: Body) -> ChatRequest:
    """Read the body of a chat completion.

    Raises:
        ConfigError: it is invalid, or asks for an unsupported feature.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ConfigError("messages is missing or empty, expected a list of messages")
    return ChatRequest(_wish(body, max_tokens=None), tuple(_message(message) for message in messages))


def _wish(body: Body, *, max_tokens: int | None) -> Wish:
    for key, nothing in _NOTHING.items():
        # 0 is not False here: "logprobs": 0 asks for something.
        value = body.get(key)
        if not any(value == none and isinstance(value, bool) == isinstance(none, bool) for none in nothing):
            raise ConfigError(f"{key} is {_shown(value)}, which this server does not support: leave it out")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ConfigError(f"model is {_shown(model)}, expected one that GET /v1/models lists")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ConfigError(f"stream_options is {_shown(options)}, expected an object")
    stop = body.get("stop") or []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(text, str) for text in stops):
        raise ConfigError(f"stop is {_shown(stop)}, expected a string or at most {_MAX_STOPS} of them")
    # Chat has a newer name for it.
    asked = _whole(body, "max_completion_tokens", None, least=1)
    temperature = _number(body, "temperature", 1.0, most=2.0)
    return Wish(
        model=model,
        max_tokens=asked if asked is not None else _whole(body, "max_tokens", max_tokens, least=1),
        temperature=temperature if temperature >= _COLDEST else 0.0,
        top_p=_number(body, "top_p", 1.0, most=1.0, above=0.0),
        seed=_whole(body, "seed", None),
        stop=tuple(cast("list[str]", stops)),
        choices=_whole(body, "n", 1, least=1, most=_MAX_CHOICES) or 1,
        stream=_flag(body, "stream"),
        usage_in_stream=_flag(options, "include_usage"),
        ignore_end=_flag(body, "ignore_eos"),
    )


def _prompts(prompt: Json) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, list) and prompt:
        if _are_tokens(prompt):
            return (tuple(cast("list[int]", prompt)),)
        if len(prompt) > _MAX_PROMPTS:
            raise ConfigError(f"prompt has {len(prompt)} texts, expected at most {_MAX_PROMPTS}")
        if all(isinstance(text, str) for text in prompt):
            return tuple(cast("list[str]", prompt))
        if all(isinstance(tokens, list) and tokens and _are_tokens(tokens) for tokens in prompt):
            return tuple(tuple(cast("list[int]", tokens)) for tokens in prompt)
    raise ConfigError(f"prompt is {_shown(prompt)}, expected a text, a list of texts, tokens, or a list of tokens")


def _are_tokens(values: list[Json]) -> bool:
    return all(type(value) is int for value in values)


def _message(message: Json) -> Mapping[str, str]:
    if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
        raise ConfigError(f"a message is {_shown(message)}, expected a role and a content")
    content = message.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    texts: list[str] = []
    for part in content if isinstance(content, list) else [None]:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise ConfigError(f"content of a message is {_shown(content)}, expected text")
        texts.append(text)
    return {"role": role, "content": "".join(texts)}


def _whole(body: Body, key: str, default: int | None, *, least: int = -(2**63), most: int = 2**63) -> int | None:
    value = body.get(key)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        most_shown = f" up to {most}" if most < 2**63 else ""
        least_shown = f" from {least}" if least > -(2**63) else ""
        raise ConfigError(f"{key} is {_shown(value)}, expected a whole number{least_shown}{most_shown}")
    return value


def _number(body: Body, key: str, default: float, *, most: float, above: float | None = None) -> float:
    value = body.get(key)
    if value is None:
        return default
    least = 0.0 if above is None else above
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most or value == above:
        raise ConfigError(
            f"{key} is {_shown(value)}, expected a number {'above' if above is not None else 'from'} 0 to {most:g}"
        )
    return float(value)


def _flag(body: Body, key: str) -> bool:
    value = body.get(key)
    if value not in (None, True, False):
        raise ConfigError(f"{key} is {_shown(value)}, expected true or false")
    return bool(value)


def _shown(value: Json) -> str:
    # A prompt is private to the client: show no more of it than identifies the field.
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
