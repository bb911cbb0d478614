"""Many requests for many adapters on one resident base: continuous batching, one step after another in one thread.

A step admits waiting requests (their prompts in one forward pass), then gives every row one more token (in another).
Rows are added and removed between steps, and rows of different adapters share a pass. Knows no HTTP.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.cache_utils import DynamicCache

from plait.adapters import AdapterSpec, AdapterState, Task
from plait.errors import ConfigError, MachineError
from plait.training.blueprint import read_base_config
from plait.training.device import Compute
from plait.training.sampling_limits import Limits
from plait.training.serving.adapter import ServedAdapter, place_adapter
from plait.training.serving.cache import AlignedCache
from plait.training.serving.layer import Routing, route_layers
from plait.training.serving.sampling import Drawer, Sampling, next_tokens
from plait.training.serving.text import TextStream
from plait.training.serving.threads import ThreadChoice

_KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})
_DEFAULT_SAMPLING = Sampling()

UNSTATED_CONTEXT = 2048
"""Most tokens of a text where a base does not say for how many it is made."""


class Finish(StrEnum):
    """Why a text ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: the new text; may be empty.
        finish: why nothing follows, or None.
        error: the failure, if `finish` is ERROR.
        all_tokens: of the whole answer, its end included; with the last piece of an answer that was completed.
    """

    text: str
    tokens: int
    finish: Finish | None = None
    error: str = ""
    all_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Generation:
    """A request for text.

    Attributes:
        prompt: tokens, at least one.
        adapter: the adapter to use; None for the base alone.
        ignore_end: whether to ignore the base's own end-of-text tokens.
        emit: called with every piece, in the engine's thread; it must not block.
    """

    prompt: tuple[int, ...]
    adapter: ServedAdapter | None
    max_tokens: int
    emit: Callable[[Piece], None]
    sampling: Sampling = _DEFAULT_SAMPLING
    stop: tuple[str, ...] = ()
    ignore_end: bool = False


@dataclass(frozen=True, eq=False)
class ResidentModel:
    """A language model in memory, with whatever adapter it carries, to sample from as it is.

    Attributes:
        model: in evaluation mode; not changed.
    """

    model: PreTrainedModel
    tokenizer: Any


@dataclass(eq=False)
class _Row:
    generation: Generation
    drawer: Drawer
    text: TextStream
    tokens: list[int] = field(default_factory=list[int])

    @property
    def made(self) -> int:
        return len(self.tokens)


class Engine:
    """A base in memory and the thread that computes with it.

    Args:
        base: its Hugging Face model directory, or a model in memory, which then computes for all requests as it is:
            they name no adapter.
        threads: chooses the number of threads of a step; None leaves it unchanged.

    Raises:
        ConfigError: the base is not a language model, or has layers that cache something other than keys and values.
        MachineError: it does not fit into memory.
    """

    def __init__(
        self,
        base: Path | ResidentModel,
        compute: Compute,
        limits: Limits | None = None,
        threads: ThreadChoice | None = None,
    ) -> None:
        self._compute = compute
        self._limits = limits or Limits()
        self._threads = threads
        if isinstance(base, ResidentModel):
            self._model, self._tokenizer, self._routing = base.model, base.tokenizer, Routing()
        else:
            self._model = _load(base, compute)
            self._routing = route_layers(cast("torch.nn.Module", self._model))
            self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        # What a model in memory keeps from these passes has to serve its training too.
        self._without_gradient = torch.no_grad if isinstance(base, ResidentModel) else torch.inference_mode
        self.context = _context(self._model, self._limits.context)
        self._vocabulary = int(cast("torch.nn.Embedding", self._model.get_input_embeddings()).num_embeddings)
        self._ends = _end_tokens(self._model, self._tokenizer)
        self._cache = AlignedCache(max_rows=self._limits.rows, max_columns=self.context)
        parameters = inspect.signature(self._model.forward).parameters
        # transformers renamed it.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._rows: list[_Row] = []
        self._waiting: deque[Generation] = deque()
        self._cancelled: set[Generation] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.steps = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self._waiting or self._rows)

    def place(self, name: str, spec: AdapterSpec, state: AdapterState) -> ServedAdapter:
        """An adapter on the device, ready for requests.

        Raises:
            MachineError: it does not fit into the device's memory.
        """
        try:
            return place_adapter(name, spec, state, self._compute)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MachineError(f"adapter '{name}' does not fit into the memory of {self._compute.device}") from error

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text, with the base's own start tokens."""
        return tuple(self._tokenizer(text)["input_ids"])

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """Tokens of a conversation for the base to continue.

        Raises:
            ConfigError: the base has no chat template, or one that refuses these messages.
        """
        if not self._tokenizer.chat_template:
            raise ConfigError("the base has no chat template, expected a request to /v1/completions")
        try:
            text = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template may raise anything
            reason = str(error).strip().splitlines()
            raise ConfigError(
                f"the base's chat template refuses the messages: {reason[0] if reason else ''}"
            ) from error
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def submit(self, generation: Generation) -> None:
        """Queue a request.

        Raises:
            ConfigError: the prompt is empty or too long, or has tokens that the base lacks.
            MachineError: too many wait already, or the engine is closed.
        """
        prompt = generation.prompt
        if not prompt:
            raise ConfigError("the prompt is empty, expected at least one token")
        if len(prompt) + generation.max_tokens > self.context:
            raise ConfigError(
                f"prompt and max_tokens are {len(prompt)} + {generation.max_tokens} tokens, "
                f"expected at most {self.context}, the context of this base"
            )
        if not all(0 <= token < self._vocabulary for token in prompt):
            raise ConfigError(f"the prompt has a token that is not one of the base's {self._vocabulary}")
        with self._changed:
            if self._closing:
                raise MachineError("the engine is closed")
            if len(self._waiting) >= self._limits.waiting:
                raise MachineError(f"{len(self._waiting)} requests are waiting already: try again later")
            self._waiting.append(generation)
            self._changed.notify()

    def cancel(self, generation: Generation) -> None:
        """Cancel a request; it is told so at the next step, unless it has ended already."""
        with self._changed:
            if generation in self._waiting:
                self._waiting.remove(generation)
                generation.emit(Piece("", 0, Finish.CANCELLED))
            else:
                self._cancelled.add(generation)
            self._changed.notify()

    def start(self) -> None:
        """Start the computing thread."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancel the current work and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self.busy or self._closing):
                    self._cancelled.clear()
                    self._changed.wait()
                if self._closing:
                    break
            self.step()
        with self._changed:
            over = [*self._waiting, *(row.generation for row in self._rows)]
            self._waiting.clear()
        self._rows.clear()
        for generation in over:
            generation.emit(Piece("", 0, Finish.CANCELLED))

    def step(self) -> None:
        """Admit waiting requests and give every row one more token. A failure ends only the requests affected."""
        self.steps += 1
        joining: list[_Row] = []
        try:
            with self._without_gradient():
                self._drop_cancelled()
                joining = self._admit()
                if joining:
                    self._prefill(joining)
                if self._rows:
                    with self._threads.step() if self._threads else nullcontext():
                        self._decode()
        except Exception as error:  # whatever it is, the other requests must be served
            met = dict.fromkeys([*self._rows, *joining])
            self._rows.clear()
            self._cache.clear()
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            for row in met:
                row.generation.emit(Piece("", row.made, Finish.ERROR, reason))

    def _drop_cancelled(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
        for index in reversed(range(len(self._rows))):
            row = self._rows[index]
            if row.generation in cancelled:
                self._remove(index)
                row.generation.emit(Piece("", row.made, Finish.CANCELLED))

    def _admit(self) -> list[_Row]:
        taken: list[Generation] = []
        with self._changed:
            while self._waiting and len(self._rows) + len(taken) < self._limits.rows:
                longest = max(len(generation.prompt) for generation in [*taken, self._waiting[0]])
                if taken and longest * (len(taken) + 1) > self._limits.prompt_tokens:
                    break
                taken.append(self._waiting.popleft())
        # Rows of one adapter side by side, in the order the adapters arrived.
        order = {adapter: index for index, adapter in enumerate(dict.fromkeys(g.adapter for g in taken))}
        taken.sort(key=lambda generation: order[generation.adapter])
        return [self._row(generation) for generation in taken]

    def _row(self, generation: Generation) -> _Row:
        def decode(tokens: Sequence[int]) -> str:
            return cast("str", self._tokenizer.decode(list(tokens), skip_special_tokens=True))

        return _Row(generation, Drawer(generation.sampling), TextStream(decode, generation.stop))

    def _prefill(self, joining: list[_Row]) -> None:
        lengths = [len(row.generation.prompt) for row in joining]
        width = max(lengths)
        tokens = torch.zeros(len(joining), width, dtype=torch.long)
        mask = torch.zeros(len(joining), width, dtype=torch.long)
        for index, row in enumerate(joining):
            tokens[index, width - lengths[index] :] = torch.tensor(row.generation.prompt)
            mask[index, width - lengths[index] :] = 1
        self._routing.assign([row.generation.adapter for row in joining])
        cache = DynamicCache()
        logits = self._forward(tokens, mask, (mask.cumsum(1) - 1).clamp_(min=0), cache)
        self._cache.join(cache, lengths)
        first = len(self._rows)
        self._rows.extend(joining)
        self._extend(first, logits)

    def _decode(self) -> None:
        self._cache.make_room()
        self._routing.assign([row.generation.adapter for row in self._rows])
        tokens = torch.tensor([[row.tokens[-1]] for row in self._rows])
        positions = torch.tensor([[length] for length in self._cache.lengths])
        logits = self._forward(tokens, self._cache.mask(), positions, self._cache.cache)
        self._cache.advance()
        self._extend(0, logits)

    def _forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: object
    ) -> torch.Tensor:
        """Logits of the last column, (rows, vocabulary)."""
        device = self._compute.device
        inputs: dict[str, Any] = {self._cache_name: cache, **self._last_only}
        out = self._model(
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            use_cache=True,
            **inputs,
        )
        return cast("torch.Tensor", out.logits)[:, -1].float()

    def _extend(self, first: int, logits: torch.Tensor) -> None:
        """Give every row from `first` on its next token, and drop finished rows."""
        tokens = next_tokens(logits, [row.drawer for row in self._rows[first:]])
        for index in reversed(range(first, len(self._rows))):
            row = self._rows[index]
            piece = self._take(row, tokens[index - first])
            if piece.finish is not None:
                self._remove(index)
            if piece.text or piece.finish is not None:
                row.generation.emit(piece)

    def _take(self, row: _Row, token: int) -> Piece:
        row.tokens.append(token)
        if token in self._ends and not row.generation.ignore_end:
            return _last(row, row.text.finish(), Finish.STOP)
        text = row.text.push(token)
        if row.text.stopped:
            return _last(row, text, Finish.STOP)
        if row.made >= row.generation.max_tokens:
            text += row.text.finish()
            return _last(row, text, Finish.STOP if row.text.stopped else Finish.LENGTH)
        return Piece(text, row.made)

    def _remove(self, index: int) -> None:
        self._cache.leave(index)
        self._rows[index] = self._rows[-1]
        self._rows.pop()


def _last(row: _Row, text: str, finish: Finish) -> Piece:
    return Piece(text, row.made, finish, all_tokens=tuple(row.tokens))


def _load(directory: Path, compute: Compute) -> PreTrainedModel:
    config = read_base_config(directory, Task.CAUSAL_LM)
    others = set(getattr(config.get_text_config(), "layer_types", None) or ()) - _KNOWN_LAYERS
    if others:
        raise ConfigError(
            f"base '{directory.name}' has layers of kind {', '.join(sorted(others))}, expected attention only: "
            "export --to vllm, and serve it with vLLM"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=compute.dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        cast("torch.nn.Module", model).to(compute.device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MachineError(f"base '{directory.name}' does not fit into the memory of {compute.device}") from error
    cast("torch.nn.Module", model).eval().requires_grad_(False)
    return cast("PreTrainedModel", model)


def context_of(model: PreTrainedModel) -> int | None:
    """Most tokens of a text that a base is made for; None if it does not say."""
    made_for = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return made_for if isinstance(made_for, int) else None


def _context(model: PreTrainedModel, asked: int) -> int:
    made_for = context_of(model)
    if made_for is None:
        return asked or UNSTATED_CONTEXT
    if asked > made_for:
        raise ConfigError(f"--context is {asked}, expected at most {made_for}, the limit of the base")
    return asked or made_for


def _end_tokens(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    stated = getattr(model.generation_config, "eos_token_id", None)
    ends = stated if isinstance(stated, list) else [stated]
    return frozenset(end for end in [*ends, tokenizer.eos_token_id] if isinstance(end, int))
