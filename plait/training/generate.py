"""Text from a model in memory, made by transformers' own `generate`, many prompts side by side.

Every text is drawn with numbers of its own seed: it does not depend on what is generated beside it.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TextStreamer,
    TopPLogitsWarper,
)

from plait.adapters import AdapterSpec, AdapterState, AdapterTask
from plait.errors import ConfigError, MachineError, check_abandoned
from plait.training.device import device_of
from plait.training.examples import Tokenizer
from plait.training.losses import is_out_of_memory

if TYPE_CHECKING:
    from plait.training.resident import ResidentBase

ROWS = 64
"""Texts that grow side by side at most (`generate`)."""
PROMPT_TOKENS = 8192
"""Of prompts that are read at once at most, padding included; a longer one goes alone."""
UNSTATED_CONTEXT = 2048
"""Most tokens of a text where a base states no context."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: at temperature 0 the likeliest, else of the nucleus `top_p` (arXiv 1904.09751)."""

    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Wanted:
    """A text that is wanted: what follows a prompt of at least one token; the same seed gives the same text."""

    prompt: tuple[int, ...]
    max_tokens: int
    seed: int


def writer_of(model: torch.nn.Module) -> PreTrainedModel:
    """The base that a model's adapter is on, with it; ConfigError if the adapter is a prompt of its own."""
    if not isinstance(model, PeftModel) or model.active_peft_config.is_prompt_learning:
        raise ConfigError(
            "the adapter is a prompt in front of the text, which plait makes no text with; "
            "run.load() gives a model whose own generate can"
        )
    return cast("PreTrainedModel", model.get_base_model())


def context_of(model: PreTrainedModel) -> int | None:
    """Most tokens of a text that a base is made for; None if it states none."""
    made_for = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return made_for if isinstance(made_for, int) else None


def generate(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    wanted: Sequence[Wanted],
    sampling: Sampling,
    show: Callable[[str], None] | None = None,
    limit_s: float | None = None,
) -> list[tuple[int, ...]]:
    """The tokens of every text that is wanted, its end included.

    Args:
        model: in evaluation mode, with whatever adapter it carries.
        show: called with the pieces of a text that is wanted alone.
        limit_s: seconds after which texts side by side end where they are; each has one token at least.

    Raises:
        ConfigError: a prompt is empty, or leaves no room for that many tokens.
        MachineError: the texts do not fit into memory, or the model gives no probabilities.
    """
    context = context_of(model) or UNSTATED_CONTEXT
    for each in wanted:
        if not each.prompt:
            raise ConfigError("the prompt is empty")
        if len(each.prompt) + each.max_tokens > context:
            raise ConfigError(
                f"a prompt and the most tokens of its answer are {len(each.prompt)} + {each.max_tokens}, "
                f"expected at most {context}, the context of this base"
            )
    ends = _end_tokens(model, tokenizer)
    made: dict[int, tuple[int, ...]] = {}
    for batch in _batches(wanted):
        try:
            texts = _generated(model, tokenizer, [wanted[number] for number in batch], sampling, ends, show, limit_s)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MachineError(f"{len(batch)} texts side by side do not fit into memory: {error}") from error
        made.update(zip(batch, texts, strict=True))
    return [made[number] for number in range(len(wanted))]


def _batches(wanted: Sequence[Wanted]) -> Iterator[list[int]]:
    """Numbers of texts that grow side by side; they have one limit, so that none grows beyond its own."""
    batch: list[int] = []
    for number in sorted(range(len(wanted)), key=lambda each: (wanted[each].max_tokens, len(wanted[each].prompt))):
        columns = (len(batch) + 1) * len(wanted[number].prompt)
        is_other = bool(batch) and wanted[number].max_tokens != wanted[batch[0]].max_tokens
        if batch and (is_other or len(batch) == ROWS or columns > PROMPT_TOKENS):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _generated(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    batch: Sequence[Wanted],
    sampling: Sampling,
    ends: frozenset[int],
    show: Callable[[str], None] | None,
    limit_s: float | None,
) -> list[tuple[int, ...]]:
    width = max(len(each.prompt) for each in batch)
    # Before a shorter prompt, and after a text that has ended.
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    tokens = torch.tensor([[pad] * (width - len(each.prompt)) + list(each.prompt) for each in batch])
    mask = torch.tensor([[0] * (width - len(each.prompt)) + [1] * len(each.prompt) for each in batch])
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=batch[0].max_tokens,
        max_time=limit_s,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
    )
    processors = LogitsProcessorList([_Draw(batch, sampling)])
    if sampling.temperature and sampling.top_p < 1:
        processors.insert(0, TopPLogitsWarper(sampling.top_p))
    if sampling.temperature:
        processors.insert(0, TemperatureLogitsWarper(sampling.temperature))
    with _alone(model, config):
        found = cast("Any", model).generate(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=processors,
            streamer=None if show is None else _Shown(tokenizer, show),
        )
    return [_ended(row, ends) for row in found[:, width:].tolist()]


def _ended(row: Sequence[int], ends: frozenset[int]) -> tuple[int, ...]:
    last = next((number for number, token in enumerate(row) if token in ends), len(row))
    return tuple(row[: last + 1])


@contextmanager
def _alone(model: PreTrainedModel, config: GenerationConfig) -> Generator[None]:
    """Without a base's own settings of how text is generated, and with its inputs where its layers compute."""
    device, own = device_of(cast("torch.nn.Module", model)), model.generation_config

    def moved(_model: object, given: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, {key: each.to(device) if isinstance(each, torch.Tensor) else each for key, each in named.items()}

    def whole(_head: object, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(each.contiguous() for each in given)

    model.generation_config = config
    # The input embedding, by which transformers judges where a model is, may lie in the host's memory.
    hooks = [cast("torch.nn.Module", model).register_forward_pre_hook(moved, with_kwargs=True)]
    if head := model.get_output_embeddings():
        # The last tokens of prompts are a slice, for which matmul would copy a frozen head's weight once a row.
        hooks.append(head.register_forward_pre_hook(whole))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        model.generation_config = own


class _Draw(LogitsProcessor):
    """Leaves every row the one token that its own random numbers choose; at temperature 0, its likeliest."""

    def __init__(self, rows: Sequence[Wanted], sampling: Sampling) -> None:
        self._generators = [torch.Generator().manual_seed(row.seed % 2**63) for row in rows]
        self._is_greedy = sampling.temperature == 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of which one of each row is finite."""
        del input_ids
        check_abandoned()
        if self._is_greedy:
            return scores
        # In float64 where the device has it: a seed gives the same text on every device, as far as logits agree.
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        drawn = [torch.rand((), generator=each, dtype=torch.float64).item() for each in self._generators]
        reached = scores.to(wide).softmax(dim=1).cumsum(1)
        # Below the last sum, whatever is rounded: beyond it there is no token.
        most = reached[:, -1:] * (1 - torch.finfo(wide).eps)
        chance = torch.tensor(drawn, dtype=wide).to(scores.device)[:, None] * reached[:, -1:]
        place = torch.searchsorted(reached, torch.minimum(chance, most), right=True)
        if scores.shape[1] in place[:, 0].tolist():
            raise MachineError("the model failed: a logit is not finite, so no token can be drawn")
        return torch.full_like(scores, -torch.inf).scatter_(1, place, 0.0)


class _Shown(TextStreamer):
    def __init__(self, tokenizer: Tokenizer, show: Callable[[str], None]) -> None:
        super().__init__(cast("Any", tokenizer), skip_prompt=True, skip_special_tokens=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        del stream_end
        self._show(text)


def _end_tokens(model: PreTrainedModel, tokenizer: Tokenizer) -> frozenset[int]:
    stated = getattr(model.generation_config, "eos_token_id", None)
    ends = stated if isinstance(stated, list) else [stated]
    return frozenset(end for end in [*ends, tokenizer.eos_token_id] if isinstance(end, int))


class TextGenerator:
    """A base that carries an adapter, and writes; ConfigError if the adapter writes no text."""

    def __init__(self, base: "ResidentBase", spec: AdapterSpec, state: AdapterState) -> None:
        if spec.task is not AdapterTask.CAUSAL_LM:
            raise ConfigError("the adapter is a classifier and writes no text; `plait eval` measures it")
        self.model: PeftModel = base.with_adapter(spec, state)
        self.model.eval()
        self._whole = writer_of(self.model)
        self.tokenizer: Tokenizer = base.tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text to be continued."""
        return tuple(cast("Any", self.tokenizer)(text)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without those that mark its beginning or end."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    @property
    def chats(self) -> bool:
        """Whether the base has a chat template."""
        return bool(self.tokenizer.chat_template)

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """Tokens of a conversation of roles and contents; ConfigError if the base has no template or it refuses."""
        if not self.chats:
            raise ConfigError("the base has no chat template, expected a text to continue")
        tokenizer = cast("Any", self.tokenizer)
        try:
            text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template may raise anything
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(f"the base's chat template refuses the messages: {reason}") from error
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    def answers(
        self,
        prompts: Sequence[tuple[int, ...]],
        *,
        max_tokens: int,
        sampling: Sampling,
        seed: int = 0,
        adapted: bool = True,
        show: Callable[[str], None] | None = None,
        limit_s: float | None = None,
    ) -> list[str]:
        """What follows each prompt, with or without the adapter; `show`, `limit_s` and errors as in `generate`."""
        wanted = [Wanted(prompt, max_tokens, seed) for prompt in prompts]
        with nullcontext() if adapted else self.model.disable_adapter():
            made = generate(self._whole, self.tokenizer, wanted, sampling, show, limit_s)
        return [self.decode(tokens) for tokens in made]

    def room(self, prompt: tuple[int, ...]) -> int:
        """Most tokens that an answer to a prompt can have."""
        return (context_of(self._whole) or UNSTATED_CONTEXT) - len(prompt)
