"""The HTTP layer: the OpenAI endpoints for text, and vLLM's for loading and unloading adapters. Knows no torch."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from plait.adapters import Json
from plait.adapters.strict_json import parse_object
from plait.errors import ConfigError, MachineError, PeerError, PlaitError
from plait.features.serving.answer import (
    CHAT,
    COMPLETION,
    STREAM_END,
    Choice,
    Envelope,
    Shape,
    error_body,
    error_event,
    model_card,
    model_list,
)
from plait.features.serving.catalogue import Catalogue, Model
from plait.features.serving.request import Body, ChatRequest, CompletionRequest, Wish, parse
from plait.hosts import AllowedHosts
from plait.training.serving import Engine, Finish, Generation, Piece, Sampling

_MAX_BODY_BYTES = 4 << 20
_CLIENT_IS_GONE = 499  # never read; for logs
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """Access rules.

    Attributes:
        api_key: required in every request; empty for none.
        may_load: whether requests may load and unload adapters, which makes the server read directories.
        hosts: host names that requests may address, and origins of pages that may send them.
    """

    api_key: str = ""
    may_load: bool = True
    hosts: AllowedHosts = field(default_factory=AllowedHosts)


def make_app(engine: Engine, catalogue: Catalogue, access: Access) -> Starlette:
    """The application, for any ASGI server."""
    face = _Face(engine, catalogue, access)
    return Starlette(
        routes=[
            Route("/health", face.health),
            Route("/v1/models", face.list_models),
            Route("/v1/models/{name:path}", face.show_model),
            Route("/v1/completions", face.complete, methods=["POST"]),
            Route("/v1/chat/completions", face.chat, methods=["POST"]),
            Route("/v1/load_lora_adapter", face.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", face.unload, methods=["POST"]),
        ],
        middleware=[
            Middleware(_HostCheck, hosts=access.hosts),
            *([Middleware(_KeyCheck, api_key=access.api_key)] if access.api_key else []),
        ],
        exception_handlers={PlaitError: _refuse},
    )


class _NoSuchModelError(PlaitError):
    """A request names a model that is not served."""


class _Face:
    def __init__(self, engine: Engine, catalogue: Catalogue, access: Access) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._access = access

    async def health(self, _: Request) -> Response:
        return PlainTextResponse("")

    async def list_models(self, _: Request) -> Response:
        return JSONResponse(model_list(self._catalogue.models()))

    async def show_model(self, request: Request) -> Response:
        return JSONResponse(model_card(self._model(request.path_params["name"])))

    async def complete(self, request: Request) -> Response:
        wish = parse(CompletionRequest, await _body(request))
        prompts = [self._engine.encode(each) if isinstance(each, str) else tuple(each) for each in wish.prompts]
        return await self._answer(request, COMPLETION, wish, prompts)

    async def chat(self, request: Request) -> Response:
        wish = parse(ChatRequest, await _body(request))
        prompt = self._engine.encode_chat([message.turn for message in wish.messages])
        return await self._answer(request, CHAT, wish, [prompt])

    async def load(self, request: Request) -> Response:
        self._check_may_load()
        body = await _body(request)
        name, place = _text(body, "lora_name"), _text(body, "lora_path")
        replace = body.get("load_inplace") is True
        self._catalogue.check_name(name, replace=replace)
        try:
            await asyncio.to_thread(self._catalogue.load, name, Path(place), replace=replace)
        except (PlaitError, OSError, ValueError) as error:
            # One answer for every failure: a client must not learn which directories exist on this machine.
            _LOGGER.warning("adapter '%s' is not served: %s", name, error)
            raise ConfigError(
                "lora_path holds no adapter that this server can serve; the server's own terminal says why"
            ) from error
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        self._check_may_load()
        name = _text(await _body(request), "lora_name")
        if not self._catalogue.unload(name):
            raise _NoSuchModelError(f"The lora adapter '{name}' cannot be found.")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _answer(self, request: Request, shape: Shape, wish: Wish, prompts: Sequence[tuple[int, ...]]) -> Response:
        model = self._model(wish.model)
        pieces = _Pieces(self._engine, asyncio.get_running_loop())
        pieces.submit(model, wish, prompts)
        envelope = Envelope.of(shape, model.name)
        prompt_tokens = sum(len(prompt) for prompt in prompts)
        if wish.stream:
            body = _stream(pieces, envelope, prompt_tokens=prompt_tokens if wish.stream_options.include_usage else None)
            return StreamingResponse(body, media_type="text/event-stream")
        choices = await _unless_gone(request, pieces)
        if choices is None:
            return Response(status_code=_CLIENT_IS_GONE)
        return JSONResponse(envelope.whole(choices, prompt_tokens=prompt_tokens))

    def _model(self, name: str) -> Model:
        model = self._catalogue.find(name)
        if model is None:
            served = ", ".join(known.name for known in self._catalogue.models())
            raise _NoSuchModelError(f"model is '{name}', expected one of {served}")
        return model

    def _check_may_load(self) -> None:
        if not self._access.may_load:
            raise _ForbiddenError(
                "this server can be reached from other machines and has no key, so it reads no directories on request: "
                "start it with --api-key"
            )


class _ForbiddenError(PlaitError):
    """A request that this server refuses from everyone."""


class _FailedError(PlaitError):
    """The computation failed."""


class _Pieces:
    """The growing texts of one request, passed from the engine's thread to the event loop."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._queue: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._generations: list[Generation] = []
        self.choices: list[Choice] = []

    def submit(self, model: Model, wish: Wish, prompts: Sequence[tuple[int, ...]]) -> None:
        """Queue the texts of all prompts.

        Raises:
            ConfigError, MachineError: the engine refuses one; then none is made.
        """
        try:
            for prompt in prompts:
                room = self._engine.context - len(prompt)
                for number in range(wish.choices):
                    # Texts of one prompt would be the same with the same seed.
                    seed = None if wish.seed is None else wish.seed + number
                    generation = Generation(
                        prompt=prompt,
                        adapter=model.adapter,
                        max_tokens=max(room, 1) if wish.max_tokens is None else wish.max_tokens,
                        sampling=Sampling(wish.temperature, wish.top_p, seed),
                        stop=wish.stop,
                        ignore_end=wish.ignore_end,
                        emit=self._receiver(len(self.choices)),
                    )
                    self._engine.submit(generation)
                    self._generations.append(generation)
                    self.choices.append(Choice())
        except PlaitError:
            self.cancel()
            raise

    async def __aiter__(self) -> AsyncIterator[tuple[int, str]]:
        """Index and text of each piece; choices are kept up to date.

        Raises:
            PlaitError: the engine failed, or is being closed.
        """
        under_way = len(self.choices)
        while under_way:
            index, piece = await self._queue.get()
            if piece.finish is Finish.ERROR:
                raise _FailedError(f"the model failed: {piece.error}")
            if piece.finish is Finish.CANCELLED:
                raise MachineError("the server is being stopped")
            choice = self.choices[index]
            choice.text, choice.tokens = choice.text + piece.text, piece.tokens
            if piece.finish is not None:
                choice.finish = piece.finish.value
                under_way -= 1
            yield index, piece.text

    def cancel(self) -> None:
        """Cancel the unfinished texts."""
        for generation, choice in zip(self._generations, self.choices, strict=True):
            if choice.finish is None:
                self._engine.cancel(generation)

    def _receiver(self, index: int) -> Callable[[Piece], None]:
        def receive(piece: Piece) -> None:
            # No one waits on a closed loop.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, piece))

        return receive


async def _stream(pieces: _Pieces, envelope: Envelope, *, prompt_tokens: int | None) -> AsyncIterator[bytes]:
    try:
        if envelope.shape.chat:
            for index in range(len(pieces.choices)):
                yield envelope.role(index)
        async for index, text in pieces:
            yield envelope.text(index, text, pieces.choices[index].finish)
        if prompt_tokens is not None:
            yield envelope.usage(prompt_tokens, sum(choice.tokens for choice in pieces.choices))
    except PlaitError as error:
        yield error_event(str(error))
    finally:
        # Also if the client has gone: the server then closes this generator.
        pieces.cancel()
    yield STREAM_END


async def _unless_gone(request: Request, pieces: _Pieces) -> list[Choice] | None:
    """All texts, or None if the client went away first."""

    async def collect() -> None:
        async for _ in pieces:
            pass

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, gone = asyncio.create_task(collect()), asyncio.create_task(wait_until_gone())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return None
        work.result()
        return pieces.choices
    finally:
        pieces.cancel()
        for task in (work, gone):
            task.cancel()


class _HostCheck:
    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wrong = self._what_is_foreign(scope["headers"]) if scope["type"] == "http" else ""
        if wrong:
            body = error_body(wrong, kind="permission_error", status=403)
            await JSONResponse(body, status_code=403)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _what_is_foreign(self, headers: Sequence[tuple[bytes, bytes]]) -> str:
        hosts, origins = (
            [value.decode("latin-1") for name, value in headers if name == wanted] for wanted in (b"host", b"origin")
        )
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._hosts.has(host):
            return f"host is {host[:80]!a}, which is not one of this server's names: start it with --allowed-hosts"
        foreign = [origin for origin in origins if not self._hosts.has_origin(origin, host)]
        if foreign:
            return f"origin is {foreign[0][:80]!a}, a page of another site: start the server with --allowed-hosts"
        return ""


class _KeyCheck:
    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                body = error_body("the API key is missing or wrong", kind="authentication_error", status=401)
                await JSONResponse(body, status_code=401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _refuse(_: Request, error: Exception) -> Response:
    kind, status = "server_error", 500
    if isinstance(error, _NoSuchModelError):
        kind, status = "not_found_error", 404
    elif isinstance(error, _ForbiddenError):
        kind, status = "permission_error", 403
    elif isinstance(error, (ConfigError, PeerError)):
        kind, status = "invalid_request_error", 400
    elif isinstance(error, MachineError):
        kind, status = "overloaded_error", 503
    return JSONResponse(error_body(str(error), kind=kind, status=status), status_code=status)


async def _body(request: Request) -> Body:
    # Pages in a browser can send anything to this machine, but not this type without a preflight.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise ConfigError("content-type is not application/json")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY_BYTES:
            raise ConfigError(f"the request is longer than {_MAX_BODY_BYTES} bytes")
    body = parse_object(bytes(data), what="the request", max_bytes=_MAX_BODY_BYTES)
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ConfigError("the request holds half of a surrogate pair, expected valid Unicode") from error
    return body


def _text(body: Body, key: str) -> str:
    value: Json = body.get(key)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} is missing or not text")
    return value
