"""From prompts, chats and preferences to sequences: only what the model should write counts in the loss.

Where the assistant's turns are is found by rendering the conversation again with the base's chat template.
"""

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import cast

import numpy as np
from jinja2 import TemplateError

from plait.data import Message, Record, RecordKind
from plait.errors import DataError
from plait.training.examples import IGNORED, Example, Tokenizer, Turn, first_tokens

_CALLS = "tool_calls"
# Content that stands for a turn's own, to find its place.
_MARK = "\ue0a1\ue0a2"


class _RecordError(Exception):
    """An error in a record, without its number, which the caller adds."""


def converse(records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int) -> list[Example]:
    """One example of each record that has something to learn from; of a preference, its chosen reply."""
    return of_each(records, lambda record: conversation(*_turns(record, kind), tokenizer, seq_len, tools=record.tools))


def of_each(records: Sequence[Record], make: Callable[[Record], Example | None]) -> list[Example]:
    """The examples that `make` makes of records, in order; DataError if the chat template refuses one."""
    examples: list[Example] = []
    for place, record in enumerate(records):
        try:
            found = make(record)
        except _RecordError as error:
            raise DataError(f"record {place + 1} of {len(records)} {error}; leave it out or change it") from error
        if found is not None:
            examples.append(replace(found, record=place))
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
    """One sequence of at most so many tokens; None if nothing to learn fits, DataError without a template."""
    text, spans = _render(given, learned, tokenizer, tools)
    encoded = cast("dict[str, list[object]]", tokenizer(text, add_special_tokens=False, return_offsets_mapping=True))
    # A chat template writes the beginning itself.
    first = first_tokens(tokenizer) if tokenizer.chat_template is None else []
    tokens = np.asarray([*first, *encoded["input_ids"]], np.int32)
    offsets = cast("list[tuple[int, int]]", encoded["offset_mapping"])
    starts = np.asarray([*(0 for _ in first), *(start for start, _ in offsets)])
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
    """The text, and the character spans that the model should write, each found when it is asked for."""
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
        shown: list[Turn] = [
            {"role": turn.role, "content": turn.content, **json.loads(turn.extra or "{}")} for turn in turns
        ]
        template = _Template(tokenizer, {"tools": json.loads(tools)} if tools else {})
    text = template.text(shown)
    return text, _spans(template, shown, wanted, text)


@contextmanager
def _refusals() -> Generator[None]:
    try:
        yield
    except (TemplateError, TypeError, ValueError, RecursionError) as error:
        # Without the template's own message, which may quote the record: this one goes to the server.
        raise _RecordError("is refused by the base's chat template (are the roles in order?)") from error


@dataclass(frozen=True)
class _Template:
    tokenizer: Tokenizer
    tools: Mapping[str, object]

    def text(self, turns: Sequence[Turn], *, to_answer: bool = False) -> str:
        """The text of turns; `to_answer`: with the beginning of the assistant's next one."""
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
