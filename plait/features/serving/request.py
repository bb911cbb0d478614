"""A request of the OpenAI API, checked: an unsupported feature is refused, never ignored.

Knows no HTTP and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, TypeVar, cast

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from plait.adapters import Json
from plait.errors import ConfigError

Body: TypeAlias = Mapping[str, Json]

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


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _StreamOptions(_Part):
    include_usage: bool = False


class _Text(_Part):
    type: Literal["text"]
    text: str


class Message(_Part):
    """One turn of a chat."""

    role: str
    content: str | list[_Text]

    @property
    def turn(self) -> dict[str, str]:
        """Role and text, as chat templates take them."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": self.role, "content": text}


class Wish(_Part):
    """The common part of both kinds of request.

    Attributes:
        max_tokens: most tokens to make; None for as many as the context holds.
        temperature: 0 for the likeliest text.
        ignore_end: whether to continue past the end of a text (an extension that vLLM also has).
    """

    model: str = Field(min_length=1)
    # Chat has a newer name for it.
    max_tokens: int | None = Field(None, ge=1, validation_alias=AliasChoices("max_completion_tokens", "max_tokens"))
    temperature: Annotated[float, AfterValidator(lambda asked: asked if asked >= _COLDEST else 0.0)] = Field(
        1.0, ge=0, le=2
    )
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63)
    stop: Annotated[
        tuple[str, ...],
        Field(max_length=16, strict=False),
        BeforeValidator(lambda said: (said,) if isinstance(said, str) else said),
    ] = ()
    choices: int = Field(1, ge=1, le=16, validation_alias="n")
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    ignore_end: bool = Field(False, validation_alias="ignore_eos")


_Tokens = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(Wish):
    """Body of ``POST /v1/completions``."""

    max_tokens: int | None = Field(
        _COMPLETION_TOKENS, ge=1, validation_alias=AliasChoices("max_completion_tokens", "max_tokens")
    )
    prompt: (
        str
        | _Tokens
        | Annotated[list[str], Field(min_length=1, max_length=64)]
        | Annotated[list[_Tokens], Field(min_length=1, max_length=64)]
    )

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One text, or the tokens of one, for each prompt."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [cast("str | list[int]", self.prompt)]
        return cast("list[str | list[int]]", self.prompt)


class ChatRequest(Wish):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)


Request = TypeVar("Request", bound=Wish)


def parse(kind: type[Request], body: Body) -> Request:
    """Read the body of a request.

    Raises:
        ConfigError: it is invalid, or asks for an unsupported feature.
    """
    for key, nothing in _NOTHING.items():
        # 0 is not False here: "logprobs": 0 asks for something.
        value = body.get(key)
        if not any(value == none and isinstance(value, bool) == isinstance(none, bool) for none in nothing):
            raise ConfigError(f"{key} is {_shown(value)}, which this server does not support: leave it out")
    try:
        return kind.model_validate({key: value for key, value in body.items() if value is not None})
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        key = str(wrong["loc"][0])
        raise ConfigError(f"{key} is {_shown(body.get(key))}: {wrong['msg']}") from error


def _shown(value: Json) -> str:
    # A prompt is private to the client: show no more of it than identifies the field.
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
