"""From records to token sequences: packing, loss masks, and the held-out part.

Plain text is packed: a client's texts, joined by the end-of-text token, are cut into sequences of equal length, so no
token is padding. Prompts and chats stay one example each, and only the tokens that the model should write count in the
loss. The held-out part is the *last* of a client's data in its own order (of text by token, otherwise by record, of
labelled text the last of every class), so that later data is predicted from earlier data.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from plait.adapters import Task
from plait.data import Record, RecordKind
from plait.errors import DataError, TooLittleDataError

IGNORED = -100  # label of a token that does not count; PyTorch's cross_entropy ignores it

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Example:
    """One sequence.

    Attributes:
        tokens: (length,) token ids.
        labels: (length,) the same ids where the loss counts and `IGNORED` elsewhere; (1,) the class for classification.
    """

    tokens: Tokens
    labels: Tokens

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of tokens and labels; equal for equal examples."""
        lengths = f"{len(self.tokens)} {len(self.labels)} ".encode()
        return hashlib.sha256(lengths + self.tokens.tobytes() + self.labels.tobytes()).digest()


@dataclass(frozen=True)
class Split:
    """A client's examples.

    Attributes:
        held_out: the part that never trains; at most as many as requested, spread evenly over it.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]

    @property
    def train_tokens(self) -> int:
        """Tokens of the training part."""
        return sum(len(example.tokens) for example in self.train)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the training part."""
        return digest_of(self.train)

    @property
    def held_out_tokens(self) -> int:
        """Tokens of the held-out part."""
        return sum(len(example.tokens) for example in self.held_out)


class _RecordError(Exception):
    """An error in a record, without its number, which the caller adds."""


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    eos_token: str | None
    eos_token_id: int | None
    pad_token_id: int | None
    chat_template: str | None

    def __call__(self, text: str | list[str], **options: object) -> dict[str, list[list[int]]]:
        """Token ids (and what the options request) of one text or several."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: object) -> str:
        """Render a conversation as text."""
        ...


def tokenise(
    records: Sequence[Record],
    *,
    kind: RecordKind,
    task: Task,
    labels: Sequence[str],
    tokenizer: Tokenizer,
    seq_len: int,
) -> list[Example]:
    """All examples made from the records, in order.

    Raises:
        DataError: the data does not fit the base or the task.
    """
    if (task is Task.CLASSIFICATION) != (kind is RecordKind.LABEL):
        raise DataError(
            f"data has {kind.value} records, expected {'labelled text' if labels else 'text, prompts or messages'}"
        )
    if task is Task.CLASSIFICATION:
        return _classify(records, labels, tokenizer, seq_len)
    if kind is RecordKind.TEXT:
        return _pack(records, tokenizer, seq_len)
    return _converse(records, kind, tokenizer, seq_len)


def split_examples(
    examples: Sequence[Example],
    held_out: Sequence[Example] | None = None,
    *,
    client: str,
    seq_len: int,
    held_out_fraction: float,
    max_held_out: int,
    by_label: bool = False,
) -> Split:
    """Set the last part of a client's examples aside, or take those that its data holds out.

    Args:
        examples: in the client's own order.
        held_out: of the split that the data holds out; None if there is none.
        client: its name, for an error.
        seq_len: tokens of a sequence, for an error.
        held_out_fraction: the fraction to set aside.
        max_held_out: most examples to use of it.
        by_label: set the last part of every class aside, so that data sorted by class is evaluated on all classes.

    Raises:
        TooLittleDataError: there is too little for one training and one held-out example.
    """
    if held_out is not None:
        for part, what in ((examples, "training"), (held_out, "held-out")):
            if not part:
                raise TooLittleDataError(
                    f"client {client!r} has too little {what} data: no sequence of {seq_len} tokens, expected one"
                )
        held_out = _classes_in_step(held_out) if by_label else held_out
        return Split(tuple(examples), spread(held_out, max_held_out))
    if by_label:
        examples = _classes_in_step(examples)
    held = max(1, round(len(examples) * held_out_fraction))
    train, rest = examples[: len(examples) - held], examples[len(examples) - held :]
    if not train:
        raise TooLittleDataError(
            f"client {client!r} has too little data: {len(examples)} sequences of at most {seq_len} tokens, "
            "expected at least 2 (one to train on, one held out)"
        )
    # Over the whole held-out part, not only its beginning.
    return Split(tuple(train), spread(rest, max_held_out))


def spread(examples: Sequence[Example], most: int) -> tuple[Example, ...]:
    """At most this many of the examples, evenly spaced from the first one on."""
    step = max(1.0, len(examples) / most)
    return tuple(examples[int(index * step)] for index in range(min(most, len(examples))))


def digest_of(examples: Sequence[Example]) -> bytes:
    """SHA-256 (32 bytes) of examples in their order."""
    return hashlib.sha256(b"".join(example.digest for example in examples)).digest()


def _classes_in_step(examples: Sequence[Example]) -> list[Example]:
    """The examples, ordered so that each class is spread over the whole list in its own order."""
    sizes = Counter(int(example.labels[0]) for example in examples)
    seen: Counter[int] = Counter()
    places: list[float] = []
    for example in examples:
        label = int(example.labels[0])
        places.append((seen[label] + 0.5) / sizes[label])
        seen[label] += 1
    return [examples[index] for index in sorted(range(len(examples)), key=places.__getitem__)]


def _pack(records: Sequence[Record], tokenizer: Tokenizer, seq_len: int) -> list[Example]:
    encoded = _token_ids(tokenizer, [record.text for record in records])
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream = np.concatenate([np.asarray([*ids, *end], np.int32) for ids in encoded])
    rows = stream[: len(stream) // seq_len * seq_len].reshape(-1, seq_len)
    return [Example(row, row) for row in rows]


def _token_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of whole texts, without special tokens."""
    backend = cast("Any", getattr(tokenizer, "backend_tokenizer", None))
    if not hasattr(backend, "encode_batch_fast"):
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    # Without token offsets, which nobody reads here: that saves a quarter of the time.
    backend.no_truncation()
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _classify(records: Sequence[Record], labels: Sequence[str], tokenizer: Tokenizer, seq_len: int) -> list[Example]:
    index = {label: number for number, label in enumerate(labels)}
    unknown = sum(record.label not in index for record in records)
    if unknown:
        # Without the label itself: this message goes to the server.
        raise DataError(
            f"label of {unknown} of {len(records)} records is not one of the run's labels: {', '.join(labels)}; "
            "leave them out, or add theirs to the server's --labels"
        )
    encoded = tokenizer([record.text for record in records], truncation=True, max_length=seq_len)["input_ids"]
    return [
        Example(np.asarray(ids, np.int32), np.asarray([index[record.label]], np.int32))
        for ids, record in zip(encoded, records, strict=True)
    ]


def _converse(records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int) -> list[Example]:
    examples: list[Example] = []
    for number, record in enumerate(records, start=1):
        try:
            text, spans = _render(record, kind, tokenizer)
        except _RecordError as error:
            raise DataError(f"record {number} of {len(records)} {error}; leave it out or change it") from error
        encoded = cast(
            "dict[str, list[object]]", tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        )
        tokens = np.asarray(encoded["input_ids"], np.int32)
        starts = np.asarray([start for start, _ in cast("list[tuple[int, int]]", encoded["offset_mapping"])])
        counts = np.zeros(len(tokens), bool)
        for start, end in spans:
            counts |= (starts >= start) & (starts < end)
        example_labels = np.where(counts, tokens, IGNORED).astype(np.int32)
        # The first token is never predicted, so its label does not count.
        if counts[1:seq_len].any():
            examples.append(Example(tokens[:seq_len], example_labels[:seq_len]))
    return examples


def _render(record: Record, kind: RecordKind, tokenizer: Tokenizer) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and the character spans that the model should write."""
    if kind is RecordKind.PROMPT:
        messages = [("user", record.prompt), ("assistant", record.completion)]
        if tokenizer.chat_template is None:
            text = f"{record.prompt}\n{record.completion}{tokenizer.eos_token or ''}"
            return text, [(len(record.prompt) + 1, len(text))]
    else:
        messages = list(record.messages)
    if tokenizer.chat_template is None:
        raise DataError("the base has no chat template, but the data has messages; use prompt/completion or text")
    turns = [{"role": role, "content": content} for role, content in messages]
    try:
        return _rendered(turns, tokenizer)
    except TemplateError as error:
        # Without the template's own message, which may quote the record: this one goes to the server.
        raise _RecordError("is refused by the base's chat template (are the roles in order?)") from error


def _rendered(turns: list[dict[str, str]], tokenizer: Tokenizer) -> tuple[str, list[tuple[int, int]]]:
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    spans: list[tuple[int, int]] = []
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(turns[:number], tokenize=False, add_generation_prompt=True)
        upto = tokenizer.apply_chat_template(turns[: number + 1], tokenize=False)
        if text.startswith(before) and text.startswith(upto):
            spans.append((len(before), len(upto.rstrip("\n"))))
    if not spans:
        raise _RecordError("is rewritten by the base's chat template, so the assistant's part cannot be located")
    return text, spans
