from collections.abc import Sequence

import numpy as np
import pytest
from transformers import AutoTokenizer

from plait.adapters import AdapterTask
from plait.data import Record, RecordKind
from plait.errors import DataError
from plait.training.examples import IGNORED, Example
from plait.training.resident import ResidentBase
from plait.training.tokenization import ExampleFormat, tokenise


def examples_of(
    resident: ResidentBase,
    records: Sequence[Record],
    kind: RecordKind,
    *,
    seq_len: int = 32,
    labels: Sequence[str] = (),
) -> list[Example]:
    task = AdapterTask.CLASSIFICATION if labels else AdapterTask.CAUSAL_LM
    return tokenise(records, resident.tokenizer, ExampleFormat(kind, task, labels, seq_len))


def written(resident: ResidentBase, example: Example) -> str:
    """The text whose tokens count towards the loss."""
    return resident.tokenizer.decode(example.labels[example.labels != IGNORED])


def test_packing_loses_only_the_tail_and_pads_nothing(resident):
    texts = ["import os\n" * 9, "x = 1\n" * 30, "y = 2\n"]
    ids = [
        token for text in texts for token in [*resident.tokenizer(text)["input_ids"], resident.tokenizer.eos_token_id]
    ]
    examples = examples_of(resident, [Record(text=text) for text in texts], RecordKind.TEXT)
    packed = np.concatenate([example.tokens for example in examples])
    assert packed.tolist() == ids[: len(ids) // 32 * 32]
    assert all(np.array_equal(example.tokens, example.labels) for example in examples)


def test_packed_tokens_are_those_that_the_tokenizer_gives_whatever_it_was_saved_with(resident):
    tokenizer = AutoTokenizer.from_pretrained(resident.directory, trust_remote_code=False)
    texts = ["a tale of <|endoftext|> two", "", "Füße, 漢字 and \t\n tabs " * 20]
    plain = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=7)
    examples = tokenise(
        [Record(text=text) for text in texts], tokenizer, ExampleFormat(RecordKind.TEXT, AdapterTask.CAUSAL_LM, (), 1)
    )
    expected = [token for ids in plain for token in (*ids, tokenizer.eos_token_id)]
    assert [int(example.tokens[0]) for example in examples] == expected


class PlainTokenizer:
    """The tiny tokenizer without its chat template."""

    chat_template = None

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __call__(self, *args: object, **options: object) -> object:
        return self._inner(*args, **options)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class BeginningTokenizer(PlainTokenizer):
    """Begins every text with token 7."""

    bos_token_id = 7

    def __call__(self, text: str, *, add_special_tokens: bool = True, **options: object) -> object:
        ids = self._inner(text, add_special_tokens=False, **options)
        return {**ids, "input_ids": [7, *ids["input_ids"]]} if add_special_tokens else ids


def test_each_sequence_begins_as_a_text_does_for_the_base(resident):
    tokenizer = BeginningTokenizer(resident.tokenizer)
    records = [Record(text="import os\n" * 20), Record(prompt="Two?", completion="Three.")]
    packed = tokenise(records[:1], tokenizer, ExampleFormat(RecordKind.TEXT, AdapterTask.CAUSAL_LM, (), 16))
    assert len(packed) > 2
    assert {(int(example.tokens[0]), len(example.tokens)) for example in packed} == {(7, 16)}
    plain = resident.tokenizer(records[0].text)["input_ids"]
    assert [int(token) for example in packed for token in example.tokens[1:]] == plain[: 15 * len(packed)]
    (prompt,) = tokenise(records[1:], tokenizer, ExampleFormat(RecordKind.PROMPT, AdapterTask.CAUSAL_LM, (), 64))
    assert int(prompt.tokens[0]) == 7
    assert written(resident, prompt) == f"Three.{tokenizer.eos_token}"


def test_only_the_completion_counts(resident):
    record = Record(prompt="What is two plus two?", completion="It is four.")
    (example,) = examples_of(resident, [record], RecordKind.PROMPT, seq_len=128)
    assert written(resident, example) == "It is four.<|im_end|>"
    assert "two plus two" in resident.tokenizer.decode(example.tokens)


def test_without_a_chat_template_the_completion_ends_with_the_end_of_text(resident):
    plain = PlainTokenizer(resident.tokenizer)
    (example,) = tokenise(
        [Record(prompt="two plus two", completion="four")],
        plain,
        ExampleFormat(RecordKind.PROMPT, AdapterTask.CAUSAL_LM, (), 64),
    )
    assert written(resident, example) == "four<|endoftext|>"


def test_a_conversation_whose_answer_is_cut_off_makes_no_example(resident):
    record = Record(prompt="word " * 200, completion="answer")
    assert examples_of(resident, [record], RecordKind.PROMPT, seq_len=16) == []


def test_labels_that_the_run_does_not_know_are_counted_but_not_quoted(resident):
    records = [Record(text="x", label="tech"), Record(text="y", label="sport")]
    with pytest.raises(
        DataError, match=r"^label of 1 of 2 records is not one of the run's labels: business, sport; leave them out"
    ):
        examples_of(resident, records, RecordKind.LABEL, labels=("business", "sport"))
