"""Answers in the formats of the OpenAI API. Knows no HTTP."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plait.adapters import Json
from plait.features.serving.catalogue import Model

STREAM_END = b"data: [DONE]\n\n"


@dataclass
class Choice:
    """One text as it grows.

    Attributes:
        tokens: number of tokens made for it.
        finish: why it ended, in the API's terms, or None.
    """

    text: str = ""
    tokens: int = 0
    finish: str | None = None


@dataclass(frozen=True)
class Shape:
    """The differences between the answers of the two endpoints.

    Attributes:
        whole: type name of a complete answer.
    """

    prefix: str
    whole: str
    piece: str
    chat: bool


COMPLETION = Shape("cmpl", "text_completion", "text_completion", chat=False)
CHAT = Shape("chatcmpl", "chat.completion", "chat.completion.chunk", chat=True)


@dataclass(frozen=True)
class Envelope:
    """Common values of all pieces of one answer.

    Attributes:
        created_s: seconds since 1970.
    """

    shape: Shape
    model: str
    id: str
    created_s: int

    @classmethod
    def of(cls, shape: Shape, model: str) -> Envelope:
        """A new one."""
        return cls(shape, model, f"{shape.prefix}-{secrets.token_hex(12)}", int(time.time()))

    def whole(self, choices: Sequence[Choice], *, prompt_tokens: int) -> dict[str, Json]:
        """The complete answer."""
        shown: list[Json] = []
        for index, choice in enumerate(choices):
            text: dict[str, Json] = (
                {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
                if self.shape.chat
                else {"text": choice.text}
            )
            shown.append({"index": index, **text, "logprobs": None, "finish_reason": choice.finish})
        made = sum(choice.tokens for choice in choices)
        return {**self._head(self.shape.whole), "choices": shown, "usage": _usage(prompt_tokens, made)}

    def role(self, index: int) -> bytes:
        """The first piece of a message."""
        return self._piece(index, {"delta": {"role": "assistant", "content": ""}}, None)

    def text(self, index: int, text: str, finish: str | None) -> bytes:
        """The next piece of a text."""
        if not self.shape.chat:
            return self._piece(index, {"text": text}, finish)
        return self._piece(index, {"delta": {"content": text} if text else {}}, finish)

    def usage(self, prompt_tokens: int, made: int) -> bytes:
        """The piece with the token counts."""
        return _event({**self._head(self.shape.piece), "choices": [], "usage": _usage(prompt_tokens, made)})

    def _piece(self, index: int, text: Mapping[str, Json], finish: str | None) -> bytes:
        choice: dict[str, Json] = {"index": index, **text, "logprobs": None, "finish_reason": finish}
        return _event({**self._head(self.shape.piece), "choices": [choice]})

    def _head(self, name: str) -> dict[str, Json]:
        return {"id": self.id, "object": name, "created": self.created_s, "model": self.model}


def error_body(message: str, *, kind: str, status: int) -> dict[str, Json]:
    """An error in the form that API clients raise."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def error_event(message: str) -> bytes:
    """An error in the middle of a stream."""
    return _event(error_body(message, kind="server_error", status=500))


def model_list(models: Sequence[Model]) -> dict[str, Json]:
    """Body of ``GET /v1/models``."""
    return {"object": "list", "data": [model_card(model) for model in models]}


def model_card(model: Model) -> dict[str, Json]:
    """One model, with vLLM's terms for its origin."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.since_s,
        "owned_by": "plait",
        "root": model.place,
        "parent": model.parent,
    }


def _usage(prompt_tokens: int, made: int) -> dict[str, Json]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": made, "total_tokens": prompt_tokens + made}


def _event(body: Mapping[str, Json]) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
