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
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from os.path import commonprefix
from typing import Any, Protocol, cast

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from plait.adapters import Task
from plait.choice import parse_choice
from plait.data import Message, Record, RecordKind
from plait.errors import DataError, TooLittleDataError
from plait.training.objectives import GRPO, SFT, objective_named

IGNORED = -100  # label of a token that does not count; PyTorch's cross_entropy ignores it

Tokens = NDArray[np.int32]
Turn = dict[str, object]
"""A turn as a chat template gets it."""

_CALLS = "tool_calls"
# Content that stands for a turn's own, to find its place.
_MARK = "\ue0a1\ue0a2"

# How many examples away a reply to another prompt is looked for.
_FURTHEST = 64

_ADVICE = {
    RecordKind.PREFERENCE: "; choose one with --objective, such as dpo",
    RecordKind.FEEDBACK: "; choose --objective kto",
}


@dataclass(frozen=True)
class Example:
    """One sequence.

    Attributes:
        tokens: (length,) token ids.
        labels: (length,) the same ids where the loss counts and `IGNORED` elsewhere; (1,) the class for classification.
        is_cut: whether it, or one of its sides, went on beyond the sequence length.
        ends: of a preference, where its sides end: the chosen reply with its prompt, the rejected one with its prompt,
            and the prompt with an unrelated reply (KTO). A side that is missing has no tokens. Otherwise empty.
    """

    tokens: Tokens
    labels: Tokens
    ends: tuple[int, ...] = ()
    is_cut: bool = field(default=False, compare=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of tokens, labels and ends; equal for equal examples."""
        lengths = " ".join(map(str, (len(self.tokens), len(self.labels), *self.ends, ""))).encode()
        return hashlib.sha256(lengths + self.tokens.tobytes() + self.labels.tobytes()).digest()

    @property
    def sides(self) -> tuple[Example | None, ...]:
        """Chosen, rejected and unrelated sequence of a preference; None for one that is missing."""
        parts = zip((0, *self.ends), self.ends, strict=False)
        return tuple(Example(self.tokens[a:b], self.labels[a:b]) if a < b else None for a, b in parts)

    @classmethod
    def of_sides(cls, chosen: Example | None, rejected: Example | None, unrelated: Example | None = None) -> Example:
        """A preference; at least one side is there."""
        sides = (chosen, rejected, unrelated)
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
        records: the records.
        kind: what they are.
        task: what is learned from them.
        labels: their classes.
        tokenizer: of the base.
        seq_len: tokens of a sequence at most.
        objective: how it is learned.
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
    if isinstance(objective_named(objective), GRPO):
        replies = _converse(records, kind, tokenizer, seq_len, judged=False)
        # One example counts as one prompt, whatever is sampled.
        return [Example.of_sides(_last_reply(reply), None) for reply in replies]
    return _converse(records, kind, tokenizer, seq_len, judged=objective != SFT)


def check_kind(kind: RecordKind, task: Task, objective: str) -> None:
    """Refuse records that a run cannot learn from.

    Supervised fine-tuning learns the chosen replies of pairs.

    Raises:
        ConfigError: there is no such objective.
        DataError: records of this kind do not fit the task or the objective.
    """
    wanted = objective_named(objective)
    if task is Task.CLASSIFICATION:
        fitting, expected = {RecordKind.LABEL}, "labelled text"
    elif wanted is None:
        fitting = {RecordKind.TEXT, RecordKind.PROMPT, RecordKind.CHAT, RecordKind.PREFERENCE}
        expected = "text, prompts or messages"
    elif isinstance(wanted, GRPO):
        fitting = {RecordKind.PROMPT, RecordKind.CHAT}
        expected = "prompts with completions, or messages, for objective 'grpo'"
    else:
        fitting, expected = {RecordKind.PREFERENCE}, "prompt, chosen and rejected"
        if wanted.takes_one_reply:
            fitting, expected = (
                fitting | {RecordKind.FEEDBACK},
                f"{expected}, or prompt, completion and a true or false label",
            )
        expected += f" for objective '{parse_choice(objective)[0]}'"
    if kind not in fitting:
        raise DataError(f"data has {kind.value} records, expected {expected}{_ADVICE.get(kind, '')}")


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
        return Split(tuple(examples), spread(held_out, max_held_out, by_label=by_label))
    if by_label:
        examples = [examples[index] for index in in_proportion(examples, lambda: 0.5)]
    held = max(1, round(len(examples) * held_out_fraction))
    train, rest = examples[: len(examples) - held], examples[len(examples) - held :]
    if not train:
        raise TooLittleDataError(
            f"client {client!r} has too little data: {len(examples)} sequences of at most {seq_len} tokens, "
            "expected at least 2 (one to train on, one held out)"
        )
    return Split(tuple(train), spread(rest, max_held_out, by_label=by_label))


def single_replies(split: Split) -> Split:
    """The split for an objective that takes one reply at a time (KTO).

    Pairs that train become two examples. Every example gets the reply of another one to its own prompt, by which the
    objective measures how far the model is from the reference.
    """
    train = [
        Example.of_sides(*(side if number == kept else None for number, side in enumerate(example.sides[:2])))
        for kept in (0, 1)
        for example in split.train
        if example.sides[kept] is not None
    ]
    return replace(split, train=_with_unrelated(train), held_out=_with_unrelated(split.held_out))


def _with_unrelated(examples: Sequence[Example]) -> tuple[Example, ...]:
    replies = [next(side for side in example.sides if side is not None) for example in examples]
    starts = [int(np.flatnonzero(reply.labels != IGNORED)[0]) for reply in replies]
    prompts = [reply.tokens[:start].tobytes() for reply, start in zip(replies, starts, strict=True)]

    def unrelated(number: int) -> Example:
        following = [(number + step) % len(examples) for step in range(1, 1 + _FURTHEST)]
        other = next((each for each in following if prompts[each] != prompts[number]), following[0])
        mine, theirs = replies[number], replies[other]
        # As long as the longer of the two at most, so that no sequence is longer than those of the data.
        most = max(len(mine.tokens), len(theirs.tokens))
        tokens = np.concatenate([mine.tokens[: starts[number]], theirs.tokens[starts[other] :]])[:most]
        labels = np.concatenate([mine.labels[: starts[number]], theirs.labels[starts[other] :]])[:most]
        return Example(tokens, labels)

    return tuple(
        Example.of_sides(example.sides[0], example.sides[1], unrelated(number))
        for number, example in enumerate(examples)
    )


def spread(examples: Sequence[Example], most: int, *, by_label: bool = False) -> tuple[Example, ...]:
    """At most this many of the examples, evenly spaced.

    Args:
        examples: in their own order.
        most: how many.
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
        examples: of a classifier.
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


def _converse(
    records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int, *, judged: bool
) -> list[Example]:
    examples: list[Example] = []
    for number, record in enumerate(records, start=1):
        try:
            if judged:
                found = _judged(record, tokenizer, seq_len)
            else:
                found = _conversation(*_turns(record, kind), tokenizer, seq_len, tools=record.tools)
        except _RecordError as error:
            raise DataError(f"record {number} of {len(records)} {error}; leave it out or change it") from error
        if found is not None:
            examples.append(found)
    return examples


def _last_reply(example: Example) -> Example:
    """The example with labels on the last run of tokens that count: the assistant's last turn."""
    counts = example.labels != IGNORED
    last = len(counts) - int(counts[::-1].argmax())
    before = np.flatnonzero(~counts[:last])
    first = int(before[-1]) + 1 if len(before) else 0
    labels = np.full_like(example.labels, IGNORED)
    labels[first:last] = example.labels[first:last]
    return replace(example, tokens=example.tokens[:last], labels=labels[:last])


def _turns(record: Record, kind: RecordKind) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The turns that are given, and those that the model learns the assistant's part of."""
    match kind:
        case RecordKind.PROMPT:
            return (Message("user", record.prompt),), (Message("assistant", record.completion),)
        case RecordKind.PREFERENCE:
            return record.messages, record.chosen
        case _:
            return (), record.messages


def _judged(record: Record, tokenizer: Tokenizer, seq_len: int) -> Example | None:
    """A preference; None if one of its replies begins beyond the sequence length, or both are cut to the same."""
    replies = (record.chosen, record.rejected)
    sides = [_conversation(record.messages, reply, tokenizer, seq_len) if reply else None for reply in replies]
    if any(reply and side is None for reply, side in zip(replies, sides, strict=True)):
        return None
    chosen, rejected = sides
    if chosen and rejected and chosen.digest == rejected.digest:
        return None
    return Example.of_sides(chosen, rejected)


def _conversation(
    given: tuple[Message, ...],
    learned: tuple[Message, ...],
    tokenizer: Tokenizer,
    seq_len: int,
    *,
    tools: str = "",
) -> Example | None:
    """One sequence; None if nothing of it that is to be learned fits."""
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
