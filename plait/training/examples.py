"""From records to token sequences: packing, loss masks, and the held-out part.

Plain text is packed: a client's texts, joined by the end-of-text token, are cut into sequences of equal length, so no
token is padding. Where each text is to be private it is a sequence of its own instead, and its rest is left out.
Prompts and chats stay one example each, and only the tokens that the model should write count in the loss. The held-out
part is the *last* of a client's data in its own order (of text by token, otherwise by record, of
labelled text the last of every class), so that later data is predicted from earlier data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from os.path import commonprefix
from typing import Any, Protocol, cast

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from plait.adapters import Task
from plait.data import Message, Record, RecordKind
from plait.errors import DataError, TooLittleDataError
from plait.objectives import SFT, usual_objective
from plait.training.teaching import teaching_of

IGNORED = -100  # label of a token that does not count; PyTorch's cross_entropy ignores it

Tokens = NDArray[np.int32]
Turn = dict[str, object]
"""A turn as a chat template gets it."""


@dataclass(frozen=True)
class Example:
    """One sequence.

    Attributes:
        tokens: (length,) token ids.
        labels: (length,) the same ids where the loss counts and `IGNORED` elsewhere; (1,) the class for classification.
        is_cut: whether it, or one of its sides, went on beyond the sequence length.
        ends: of a preference, where its sides end: the chosen reply with its prompt, the rejected one with its prompt,
            which is missing where its end is that of the chosen. Otherwise empty.
    """

    tokens: Tokens
    labels: Tokens
    ends: tuple[int, ...] = ()
    is_cut: bool = field(default=False, compare=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of tokens, labels and ends, the last of them twice; equal for equal examples."""
        lengths = " ".join(map(str, (len(self.tokens), len(self.labels), *self.ends, *self.ends[-1:], ""))).encode()
        return hashlib.sha256(lengths + self.tokens.tobytes() + self.labels.tobytes()).digest()

    @property
    def sides(self) -> tuple[Example | None, ...]:
        """Chosen and rejected sequence of a preference; None for one that is missing."""
        parts = zip((0, *self.ends), self.ends, strict=False)
        return tuple(Example(self.tokens[a:b], self.labels[a:b]) if a < b else None for a, b in parts)

    @classmethod
    def of_sides(cls, chosen: Example, rejected: Example | None) -> Example:
        """A preference; or a reply alone."""
        sides = (chosen, rejected)
        there = [side for side in sides if side is not None]
        ends = accumulate(0 if side is None else len(side.tokens) for side in sides)
        tokens, labels = (np.concatenate([getattr(side, name) for side in there]) for name in ("tokens", "labels"))
        return cls(tokens, labels, (*ends,), any(side.is_cut for side in there))


@dataclass(frozen=True)
class Split:
    """A client's examples.

    Attributes:
        held_out: the part that never trains; at most as many as requested, spread evenly over it.
        cut: of all examples, those that went on beyond the sequence length.
        left_out: records of which nothing to learn from is within it.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    cut: int = 0
    left_out: int = 0

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


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    eos_token: str | None
    eos_token_id: int | None
    pad_token_id: int | None
    chat_template: str | None

    def __call__(self, text: str | list[str], **options: object) -> dict[str, list[list[int]]]:
        """Token ids (and what the options request) of one text or several."""
        ...

    def decode(self, tokens: Sequence[int], **options: object) -> str:
        """The text of token ids."""
        ...

    def apply_chat_template(self, conversation: list[Turn], **options: object) -> str:
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
    objective: str = SFT,
    apart: bool = False,
) -> list[Example]:
    """All examples made from the records, in order.

    Args:
        seq_len: tokens of a sequence at most.
        apart: whether each text is a sequence of its own, cut at `seq_len`, so that no sequence has two texts and no
            text two sequences.

    Raises:
        DataError: the data does not fit the base, the task or the objective.
    """
    check_kind(kind, task, objective)
    if task is Task.CLASSIFICATION:
        return _classify(records, labels, tokenizer, seq_len)
    if kind is RecordKind.TEXT:
        return (_one_each if apart else _pack)(records, tokenizer, seq_len)
    return teaching_of(objective).examples(records, kind, tokenizer, seq_len)


def prompt_tokens(example: Example) -> tuple[int, ...]:
    """What comes before the first token that counts."""
    first = int((example.labels != IGNORED).argmax())
    return tuple(int(token) for token in example.tokens[:first])


def check_kind(kind: RecordKind, task: Task, objective: str) -> None:
    """Refuse records that a run cannot learn from.

    Raises:
        ConfigError: there is no such objective.
        DataError: records of this kind do not fit the task or the objective.
    """
    teaching = teaching_of(objective)
    fitting, expected = teaching.kinds, teaching.expected
    if task is Task.CLASSIFICATION:
        fitting, expected = {RecordKind.LABEL}, "labelled text"
    if kind not in fitting:
        usual = usual_objective(kind.value)
        advice = f"; choose --objective {usual}" if usual else ""
        raise DataError(f"data has {kind.value} records, expected {expected}{advice}")


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
        held_out: of the split that the data holds out; None if there is none.
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
        return Split(tuple(examples), spread(held_out, max_held_out, by_label=by_label))
    if by_label:
        examples = [examples[index] for index in in_proportion(examples, lambda: 0.5)]
    held = max(1, round(len(examples) * held_out_fraction))
    train, rest = examples[: len(examples) - held], examples[len(examples) - held :]
    if not train:
        raise TooLittleDataError(
            f"client {client!r} has too little data: {len(examples)} sequences of at most {seq_len} tokens, "
            "expected at least 2 (one to train on, one held out); add text, or lower --seq-len"
        )
    return Split(tuple(train), spread(rest, max_held_out, by_label=by_label))


def spread(examples: Sequence[Example], most: int, *, by_label: bool = False) -> tuple[Example, ...]:
    """At most this many of the examples, evenly spaced.

    Args:
        by_label: take them class by class, so that every class has its share. Evenly spaced among examples whose
            classes alternate would meet some classes again and again, and miss others.
    """
    step = max(1.0, len(examples) / most)
    # From the middle of a stretch, so that the first class has no advantage.
    first = step / 2 if by_label else 0.0
    ordered = sorted(examples, key=_label_of) if by_label else examples
    return tuple(ordered[int(first + index * step)] for index in range(min(most, len(examples))))


def in_proportion(examples: Sequence[Example], offset: Callable[[], float]) -> NDArray[np.int64]:
    """An order in which any few in a row have every class in proportion; within a class it is the order given.

    Args:
        offset: where a class begins, as a fraction of the distance between two of its examples, 0 to 1.

    Returns:
        (examples,) indices.
    """
    classes = np.asarray([_label_of(example) for example in examples])
    places = np.empty(len(classes))
    for each in np.unique(classes):
        (own,) = np.nonzero(classes == each)
        places[own] = (np.arange(len(own)) + offset()) / len(own)
    return np.argsort(places, kind="stable")


def _label_of(example: Example) -> int:
    return int(example.labels[0])


def digest_of(examples: Sequence[Example]) -> bytes:
    """SHA-256 (32 bytes) of examples in their order."""
    return hashlib.sha256(b"".join(example.digest for example in examples)).digest()


def _pack(records: Sequence[Record], tokenizer: Tokenizer, seq_len: int) -> list[Example]:
    encoded = _token_ids(tokenizer, [record.text for record in records])
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream = np.concatenate([np.asarray([*ids, *end], np.int32) for ids in encoded])
    rows = stream[: len(stream) // seq_len * seq_len].reshape(-1, seq_len)
    return [Example(row, row) for row in rows]


def _one_each(records: Sequence[Record], tokenizer: Tokenizer, seq_len: int) -> list[Example]:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = [np.asarray([*ids, *end], np.int32) for ids in _token_ids(tokenizer, [record.text for record in records])]
    # The first token is never predicted, so one alone teaches nothing.
    return [Example(row[:seq_len], row[:seq_len], is_cut=len(row) > seq_len) for row in rows if len(row) > 1]


def _token_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of whole texts, without special tokens."""
    backend = cast("Any", getattr(tokenizer, "backend_tokenizer", None))
    if not hasattr(backend, "encode_batch_fast"):
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    # Without token offsets, which are not read here: that saves a quarter of the time.
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


_CALLS = "tool_calls"
# Content that stands for a turn's own, to find its place.
_MARK = "\ue0a1\ue0a2"


class _RecordError(Exception):
    """An error in a record, without its number, which the caller adds."""


def converse(records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int) -> list[Example]:
    """One example of each record that has something to learn from; of a preference, its chosen reply.

    Args:
        seq_len: tokens of an example at most.

    Raises:
        DataError: the base's chat template refuses a record.
    """
    return of_each(records, lambda record: conversation(*_turns(record, kind), tokenizer, seq_len, tools=record.tools))


def of_each(records: Sequence[Record], make: Callable[[Record], Example | None]) -> list[Example]:
    """The examples that can be made of records, in order.

    Args:
        records: of a client.
        make: makes one of a record, by `conversation`; None where nothing of it is to be learned.

    Raises:
        DataError: the base's chat template refuses a record.
    """
    examples: list[Example] = []
    for number, record in enumerate(records, start=1):
        try:
            found = make(record)
        except _RecordError as error:
            raise DataError(f"record {number} of {len(records)} {error}; leave it out or change it") from error
        if found is not None:
            examples.append(found)
    return examples


def _turns(record: Record, kind: RecordKind) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The turns that are given, and those that the model learns the assistant's part of."""
    match kind:
        case RecordKind.PROMPT:
            return (Message("user", record.prompt),), (Message("assistant", record.completion),)
        case RecordKind.PREFERENCE:
            return record.messages, record.chosen
        case _:
            return (), record.messages


def conversation(
    given: tuple[Message, ...],
    learned: tuple[Message, ...],
    tokenizer: Tokenizer,
    seq_len: int,
    *,
    tools: str = "",
) -> Example | None:
    """One sequence; None if nothing of it that is to be learned fits.

    Args:
        seq_len: tokens at most.

    Raises:
        DataError: the base has no chat template, and needs one.
    """
    text, spans = _render(given, learned, tokenizer, tools)
    encoded = cast("dict[str, list[object]]", tokenizer(text, add_special_tokens=False, return_offsets_mapping=True))
    tokens = np.asarray(encoded["input_ids"], np.int32)
    starts = np.asarray([start for start, _ in cast("list[tuple[int, int]]", encoded["offset_mapping"])])
    counts = np.zeros(len(tokens), bool)
    last = starts[seq_len] if len(tokens) > seq_len else len(text)
    for start, end in spans:
        # Turns are in the order of the text, and each is found by rendering all turns before it.
        if start > last:
            break
        counts |= (starts >= start) & (starts < end)
    labels = np.where(counts, tokens, IGNORED).astype(np.int32)
    # The first token is never predicted, so its label does not count.
    is_learned = counts[1:seq_len].any()
    return Example(tokens[:seq_len], labels[:seq_len], is_cut=len(tokens) > seq_len) if is_learned else None


def _render(
    given: tuple[Message, ...], learned: tuple[Message, ...], tokenizer: Tokenizer, tools: str
) -> tuple[str, Iterable[tuple[int, int]]]:
    """The text of a conversation, and the character spans that the model should write, each found when it is asked for.

    Both raise `_RecordError` if the template refuses the conversation.
    """
    turns = (*given, *learned)
    if tokenizer.chat_template is None:
        if [message.role for message in turns] != ["user", "assistant"] or not given or learned[0].extra:
            raise DataError("the base has no chat template, but the data has messages; use prompt/completion or text")
        text = f"{given[0].content}\n{learned[0].content}{tokenizer.eos_token or ''}"
        return text, [(len(given[0].content) + 1, len(text))]
    has_tools = tools or any(_CALLS in message.extra for message in turns)
    # A template that shows no tools would leave them out without a word.
    if has_tools and _CALLS not in str(tokenizer.chat_template):
        raise _RecordError("calls tools, which the base's chat template cannot show")
    wanted = [at for at, turn in enumerate(turns) if at >= len(given) and turn.role == "assistant" and turn.learned]
    with _refusals():
        shown = [_template_turn(message) for message in turns]
        template = _Template(tokenizer, {"tools": json.loads(tools)} if tools else {})
    text = template.text(shown)
    return text, _spans(template, shown, wanted, text)


@contextmanager
def _refusals() -> Generator[None]:
    """Turns what a chat template raises into one line."""
    try:
        yield
    except (TemplateError, TypeError, ValueError, RecursionError) as error:
        # Without the template's own message, which may quote the record: this one goes to the server.
        raise _RecordError("is refused by the base's chat template (are the roles in order?)") from error


def _template_turn(message: Message) -> Turn:
    more = cast("Turn", json.loads(message.extra)) if message.extra else {}
    return {"role": message.role, "content": message.content, **more}


@dataclass(frozen=True)
class _Template:
    """The base's chat template with the tools of a conversation."""

    tokenizer: Tokenizer
    tools: Mapping[str, object]

    def text(self, turns: Sequence[Turn], *, to_answer: bool = False) -> str:
        """The text of turns, and of the beginning of the assistant's next one if that is to follow."""
        with _refusals():
            return self.tokenizer.apply_chat_template(
                [*turns], tokenize=False, add_generation_prompt=to_answer, **self.tools
            )


def _spans(template: _Template, turns: Sequence[Turn], wanted: Sequence[int], text: str) -> Generator[tuple[int, int]]:
    """Where in the text of all turns the wanted ones are, with the token that ends each."""
    for number in wanted:
        before = template.text(turns[:number], to_answer=True)
        upto = template.text(turns[: number + 1])
        if text.startswith(before) and text.startswith(upto):
            yield len(before), len(upto.rstrip("\n"))
        else:
            yield _marked(template, turns, number, text)


def _marked(template: _Template, turns: Sequence[Turn], number: int, text: str) -> tuple[int, int]:
    """Where a turn is, in a template that renders turns otherwise once others follow (Qwen 3, Mistral)."""
    marked: Turn = {"role": "assistant", "content": _MARK}
    changed = [marked if at == number else turn for at, turn in enumerate(turns)]
    start, mark, after = template.text(changed).partition(_MARK)
    _, _, ending = template.text(changed[: number + 1]).partition(_MARK)
    end = len(text) - len(after)
    if not after.startswith(ending):
        # What only a conversation's last turn ends with is left out: the end of the text (Phi 3).
        ending = commonprefix((after, ending)).rpartition("\n")[0]  # noqa: RUF071 - of texts
    ending = ending.rstrip("\n")
    is_found = mark and len(start) <= end and text.startswith(start) and text.endswith(after)
    if not is_found or not ending:
        raise _RecordError("is rewritten by the base's chat template, so the assistant's part cannot be located")
    # A space before the first word is part of its token.
    return len(start.rstrip(" ")), end + len(ending)
