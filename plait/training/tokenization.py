"""How an objective is learned: the examples made of a client's records, and what trains and judges on them.

Plain text is packed: texts, joined by the end-of-text token, are cut into sequences of equal length, each after the
base's token for the beginning of a text. Where texts are private, or not packed, each is a
sequence of its own, and cut.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from plait.adapters import AdapterTask
from plait.data import Record, RecordKind
from plait.errors import DataError
from plait.objectives import SFT, objective_named, usual_objective
from plait.training.examples import Example, Tokenizer, first_tokens
from plait.training.trainer import TrainingObjective


def training_objective(text: str) -> TrainingObjective:
    """How the objective of this text is learned."""
    objective = objective_named(text)
    if objective.is_plain:
        return TrainingObjective()
    if objective.completions:
        from plait.training.completions import Rewards

        return Rewards(text)
    from plait.training.preferences import Preferences

    return Preferences(text)


_TEXTS_AT_ONCE = 16  # an encoding takes many times the memory of its tokens


@dataclass(frozen=True)
class ExampleFormat:
    """What examples are made of; `apart`: each text is a sequence of its own, cut at `seq_len`."""

    kind: RecordKind
    task: AdapterTask
    labels: tuple[str, ...]
    seq_len: int
    objective: str = SFT
    apart: bool = False


def tokenise(records: Sequence[Record], tokenizer: Tokenizer, form: ExampleFormat) -> list[Example]:
    """All examples of the records, in order; DataError if they do not fit base, task or objective."""
    check_kind(form.kind, form.task, form.objective)
    if form.task is AdapterTask.CLASSIFICATION:
        return _classify(records, form.labels, tokenizer, form.seq_len)
    if form.kind is RecordKind.TEXT:
        return _texts(records, tokenizer, form)
    return training_objective(form.objective).examples(records, form.kind, tokenizer, form.seq_len)


def check_kind(kind: RecordKind, task: AdapterTask, objective: str) -> None:
    """Refuse records that a run cannot learn from."""
    learned = training_objective(objective)
    fitting, expected = learned.kinds, learned.expected
    if task is AdapterTask.CLASSIFICATION:
        fitting, expected = {RecordKind.LABEL}, "labelled text"
    if kind not in fitting:
        usual = usual_objective(kind.value)
        advice = f"; choose --objective {usual}" if usual else ""
        raise DataError(f"data has {kind.value} records, expected {expected}{advice}")


def _texts(records: Sequence[Record], tokenizer: Tokenizer, form: ExampleFormat) -> list[Example]:
    encoded, first = _token_ids(tokenizer, [record.text for record in records]), first_tokens(tokenizer)
    end, seq_len = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], form.seq_len
    if form.apart:
        rows = [np.asarray([*first, *ids, *end], np.int32) for ids in encoded]
        # The first token is never predicted, so one alone teaches nothing.
        return [
            Example(row[:seq_len], row[:seq_len], is_cut=len(row) > seq_len, record=place)
            for place, row in enumerate(rows)
            if len(row) > 1
        ]
    stream = np.concatenate([np.asarray([*ids, *end], np.int32) for ids in encoded] or [np.empty(0, np.int32)])
    length = max(1, seq_len - len(first))
    rows = stream[: len(stream) // length * length].reshape(-1, length)
    if first:
        rows = np.pad(rows, ((0, 0), (1, 0)), constant_values=first[0])
    ends = np.cumsum([len(ids) + len(end) for ids in encoded])
    begins = np.searchsorted(ends, np.arange(len(rows)) * length, side="right")
    return [Example(row, row, record=int(place)) for row, place in zip(rows, begins, strict=True)]


def _token_ids(tokenizer: Tokenizer, texts: list[str]) -> Sequence[Sequence[int]]:
    backend = cast("Any", getattr(tokenizer, "backend_tokenizer", None))
    if not hasattr(backend, "encode_batch_fast"):
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    # Without token offsets, which are not read here: that saves a quarter of the time.
    backend.no_truncation()
    backend.no_padding()
    parts = (texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))
    encoded = (each for part in parts for each in backend.encode_batch_fast(part, add_special_tokens=False))
    return [array("i", encoding.ids) for encoding in encoded]


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
        Example(np.asarray(ids, np.int32), np.asarray([index[record.label]], np.int32), record=place)
        for place, (ids, record) in enumerate(zip(encoded, records, strict=True))
    ]
